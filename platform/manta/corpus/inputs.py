"""What a corpus is made of, found before anything is started: its files and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from manta.config.corpus import CorpusConfig
from manta.corpus.sources import InputFile, resolve
from manta.corpus.tokenizer import CorpusTokenizer, load


@dataclass(frozen=True)
class Inputs:
    """What `prepare` reads.

    Attributes:
        files: of all sources, in canonical order.
        tokenizer: that is loaded; None if one is to be trained.
    """

    files: list[InputFile]
    tokenizer: CorpusTokenizer | None


def open_inputs(config: CorpusConfig) -> Inputs:
    """Find the files and load the tokenizer; relative paths are those of the working folder.

    Raises:
        CorpusError: naming every pattern that matches nothing, or why the tokenizer can't be used.
    """
    files = resolve(config.sources)
    return Inputs(files, load(config.tokenizer) if config.tokenizer.path else None)

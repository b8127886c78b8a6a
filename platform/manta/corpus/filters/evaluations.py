"""The n-grams of evaluations, which no training document may share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from manta.config.corpus import SourceSection
from manta.config.errors import CorpusError
from manta.config.filters import ContaminationSection, EvaluationSection
from manta.corpus.documents import Problem
from manta.corpus.filters.minhash import shingles
from manta.corpus.filters.words import Uint64s
from manta.corpus.readers import arrow_batch_count, read
from manta.corpus.scan import row_name
from manta.corpus.sources import InputFile, resolve


class EvaluationNgrams(NamedTuple):
    """What is looked for of an evaluation.

    Attributes:
        name: name of the evaluation.
        ngrams: hashes of the n-grams of its texts, ascending, each once.
        texts: number of its texts.
        short: number of texts with fewer words than an n-gram, which can't be found.
    """

    name: str
    ngrams: Uint64s
    texts: int
    short: int

    @property
    def sha256(self) -> str:
        """Digest of the n-grams."""
        return hashlib.sha256(self.ngrams.tobytes()).hexdigest()


def read_evaluations(section: ContaminationSection) -> list[EvaluationNgrams]:
    """The evaluations that a config names.

    Raises:
        CorpusError: if a file can't be read, or no text of an evaluation is long enough.
    """
    return [_read(one, section.words) for one in section.evaluations]


def too_short(evaluations: Iterable[EvaluationNgrams]) -> dict[str, int]:
    """The texts of each evaluation that can't be found, for the counts of the filter."""
    return {f"texts of {one.name} too short to find": one.short for one in evaluations if one.short}


def ngrams_in(texts: Iterator[str], words: int) -> tuple[Uint64s, int, int]:
    """N-grams of some texts, ascending and each once; the number of texts, and of short ones."""
    found, count, short = [np.empty(0, np.uint64)], 0, 0
    for text in texts:
        count += 1
        grams = whole_ngrams(text, words)
        short += not len(grams)
        found.append(grams)
    return np.unique(np.concatenate(found)), count, short


def whole_ngrams(text: str, words: int) -> Uint64s:
    """Hashes of the n-grams of a text; none if it has fewer words."""
    grams = shingles(text, words)
    if len(grams) == 1 and len(shingles(text, 1)) < words:
        return grams[:0]
    return grams


def _read(section: EvaluationSection, words: int) -> EvaluationNgrams:
    ngrams, count, short = ngrams_in(_texts(section), words)
    if not len(ngrams):
        raise CorpusError(
            f"filters.decontaminate.evaluations: '{section.name}': none of its {count} texts has "
            f"{words} words: set filters.decontaminate.words lower, or name other columns"
        )
    return EvaluationNgrams(section.name, ngrams, count, short)


def _end(file: InputFile, format_: str) -> int | None:
    """The last part of a file to read: an Arrow file is read by its batches."""
    return arrow_batch_count(file) if format_ == "arrow" else None


def _texts(section: EvaluationSection) -> Iterator[str]:
    where = f"filters.decontaminate.evaluations: '{section.name}'"
    for column in section.columns:
        source = SourceSection(
            name=section.name, format=section.format, paths=section.paths, text_column=column
        )
        try:
            files = resolve([source])
        except CorpusError as error:
            raise CorpusError(f"filters.decontaminate.evaluations: {error}") from None
        for file in files:
            for row in read(file, section.format, column, 0, _end(file, section.format)):
                if isinstance(row, Problem):
                    place = "" if row.row is None else f", {row_name(section.format, row.row)}"
                    raise CorpusError(f"{where}: {file.shown}{place}: {row.reason}")
                if row is not None and row.strip():
                    yield row

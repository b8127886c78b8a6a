"""The tokenizer of an exported model: that of its corpus, whichever way it is loaded."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from manta.config.errors import CorpusError, RunError
from manta.corpus.canonical import CONFIG_FILE, TOKENIZER_FILE
from manta.corpus.manifest import Manifest
from manta.corpus.reloaded import difference
from manta.corpus.remote import local_shard
from manta.corpus.tokenizer import CorpusTokenizer, decode, of_corpus
from manta.sample import shard_file

log = logging.getLogger(__name__)

# Documents that are decoded, to see whether all tokenizers that are to be one encode them alike.
COMPARED = 64
COMPARED_TOKENS = 2048
# For a few types of models, such as qwen2, Transformers 5 puts its own class in place of the one
# that the files name, and builds another tokenizer. It doesn't where the files name one in code.
CLASS_FILE = "plain_tokenizer.py"
CLASS_CODE = '''"""The tokenizer of this model: tokenizer.json as it is.

It is here because Transformers builds another one for models of this type when a tokenizer names
no code of its own. The code need not be trusted: without it the same tokenizer is loaded.
"""

from transformers import PreTrainedTokenizerFast


class PlainTokenizer(PreTrainedTokenizerFast):
    """Takes tokenizer.json as it is."""
'''


def write_tokenizer(folder: Path, corpus: str, manifest: Manifest) -> None:
    """Put the tokenizer of a corpus beside an exported model, as `AutoTokenizer` finds it there.

    Args:
        folder: the model's folder; holds its ``config.json``.
        corpus: folder or URL.
        manifest: the corpus's manifest.

    Raises:
        RunError: if Transformers makes another tokenizer of it all the same.
        CorpusError: if the corpus has lost its tokenizer.
    """
    tokenizer = of_corpus(corpus, manifest)
    for name, content in tokenizer.files.items():
        (folder / name).write_bytes(content)
    texts = _documents(folder, corpus, manifest)
    if _difference(folder, tokenizer, texts) is None:
        return
    config = json.loads(tokenizer.files[CONFIG_FILE])
    config["auto_map"] = {"AutoTokenizer": [None, f"{Path(CLASS_FILE).stem}.PlainTokenizer"]}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    (folder / CLASS_FILE).write_text(CLASS_CODE)
    if said := _difference(folder, tokenizer, texts):
        model_type = json.loads((folder / "config.json").read_bytes()).get("model_type")
        raise RunError(
            f"the tokenizer can't be exported with a model of the type {model_type}: {said}; take "
            "another model.type, or another version of Transformers"
        )


def _difference(folder: Path, tokenizer: CorpusTokenizer, texts: list[str]) -> str | None:
    loaded = AutoTokenizer.from_pretrained(folder)
    return difference(loaded, tokenizer, folder / TOKENIZER_FILE, texts)


def load_tokenizer(corpus: str, manifest: Manifest) -> Any:
    """The tokenizer of a corpus, as an exported model has it."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in of_corpus(corpus, manifest).files.items():
            (Path(folder) / name).write_bytes(content)
        return AutoTokenizer.from_pretrained(folder)


def _documents(folder: Path, corpus: str, manifest: Manifest) -> list[str]:
    """The texts of some documents of the corpus, of its smallest shard."""
    shard = min(manifest.shards, key=lambda shard: shard.bytes)
    try:
        held = local_shard(corpus, shard)
        try:
            column = shard_file.read(held.path).column("tokens")
            rows = [row.as_py()[:COMPARED_TOKENS] for row in column[:COMPARED]]
        finally:
            held.release()
    except CorpusError as error:
        log.warning("the tokenizer is compared on no documents of the corpus: %s", error)
        return []
    return decode(folder, TOKENIZER_FILE, rows)

"""Documents drawn at random from a corpus or a file, as tokens: what drift is looked for in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manta.config.errors import ConfigError, CorpusError
from manta.corpus.documents import Problem
from manta.corpus.manifest import PACKED, TOKENS, Manifest, Split
from manta.corpus.readers import read
from manta.corpus.remote import local_shard, tokenizer_folder
from manta.corpus.sources import InputFile
from manta.corpus.tokenizer import encoder
from manta.sample import shard_file
from manta.sample.columns import from_arrow

Tokens = NDArray[np.unsignedinteger]
# Ending of a file → its format.
FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".arrow": "arrow"}


@dataclass(frozen=True)
class DrawnDocuments:
    """Some documents.

    Attributes:
        name: the data that they are of, for people.
        tokens: one array for each document.
        sources: source of each document.
        total: number of documents or rows that they were drawn from.
        tokenizer: SHA-256 of the tokenizer.
    """

    name: str
    tokens: list[Tokens]
    sources: list[str]
    total: int
    tokenizer: str

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Number of tokens of each document."""
        return np.array([len(tokens) for tokens in self.tokens], np.float64)


def drawn_from_corpus(
    folder: str, manifest: Manifest, split: Split, most: int, seed: int
) -> DrawnDocuments:
    """Documents of a split, each as likely as any other; of packed rows, those of some rows.

    Args:
        folder: path or URL of the corpus.
        manifest: the corpus's manifest.
        split: name of the split.
        most: most documents to draw.
        seed: seed of the draw.

    Raises:
        CorpusError: if samples aren't tokens, or a shard is missing or damaged.
    """
    if manifest.sample != TOKENS and manifest.sample not in PACKED:
        raise CorpusError(
            f"{folder}: its samples are of the format '{manifest.sample}', not tokens: drift is "
            "looked for in text, chats, pairs and labelled texts"
        )
    shards = manifest.shards_of(split)
    counts = [shard.documents for shard in shards]
    total = sum(counts)
    chosen = _draw(total, most, seed)
    tokens, sources = list[Tokens](), list[str]()
    begin = 0
    for shard, count in zip(shards, counts, strict=True):
        here = chosen[(chosen >= begin) & (chosen < begin + count)] - begin
        begin += count
        if not len(here):
            continue
        held = local_shard(folder, shard)
        try:
            table = shard_file.read(held.path)
            names = table.column("source").to_pylist()
            for row in here.tolist():
                found = _documents(table, row, packed=manifest.sample != TOKENS)
                tokens += found
                sources += [names[row]] * len(found)
        finally:
            held.release()
    kept = _draw(len(tokens), most, seed)
    return DrawnDocuments(
        f"{folder} ({split})",
        [tokens[index] for index in kept],
        [sources[index] for index in kept],
        total,
        str(manifest.tokenizer_sha256),
    )


def _documents(table: Any, row: int, *, packed: bool) -> list[Tokens]:
    """The documents of one row, copied out of the mapped file."""
    tokens: Any = from_arrow(table.column("tokens"))
    found: Tokens = np.array(tokens[row : row + 1].flat)
    if not packed:
        return [found]
    starts: Any = from_arrow(table.column("starts"))
    return np.split(found, starts[row : row + 1].flat[1:].tolist())


def drawn_from_file(
    path: Path, column: str, folder: str, manifest: Manifest, most: int, seed: int
) -> DrawnDocuments:
    """Documents of a file, by the tokenizer of a corpus.

    Args:
        path: JSONL, Parquet, Arrow or text file.
        column: column of the text.
        folder: path or URL of the corpus.
        manifest: the corpus's manifest.
        most: most documents to draw.
        seed: seed of the draw.

    Raises:
        ConfigError: if the corpus isn't one of plain text.
        CorpusError: if the file can't be read.
    """
    if manifest.sample != TOKENS:
        raise ConfigError(
            f"{path}: {folder} holds {manifest.documents_are}, which a file alone does not tell: "
            "prepare the new data like it (manta prepare), and give the folder of that corpus"
        )
    texts = _texts(path, column)
    chosen = _draw(len(texts), most, seed)
    assert manifest.token_dtype is not None
    assert manifest.eos_id is not None
    encode = encoder(
        str(tokenizer_folder(folder, manifest) / str(manifest.tokenizer_file)),
        str(manifest.tokenizer_sha256),
        manifest.begins_with,
        manifest.eos_id,
        manifest.token_dtype,
    ).encode
    tokens = encode([texts[index] for index in chosen])
    return DrawnDocuments(
        str(path), tokens, [path.stem] * len(tokens), len(texts), str(manifest.tokenizer_sha256)
    )


def _texts(path: Path, column: str) -> Sequence[str]:
    kind = FORMATS.get(path.suffix.lower(), "text")
    if not path.is_file():
        raise CorpusError(
            f"{path}: neither a prepared corpus nor a file: give the folder of a corpus, or a "
            "JSONL, Parquet, Arrow or text file"
        )
    file = InputFile(0, str(path.absolute()), str(path), path.stat().st_size, "")
    texts = list[str]()
    for number, row in enumerate(read(file, kind, column, 0, None), start=1):
        if isinstance(row, Problem):
            raise CorpusError(f"{path}, row {number}: {row.reason}")
        if row:
            texts.append(row)
    if not texts:
        raise CorpusError(f"{path}: no documents in it")
    return texts


def _draw(total: int, most: int, seed: int) -> NDArray[np.int64]:
    """Ascending indices of some of `total` things."""
    random = np.random.Generator(np.random.PCG64(seed))
    return np.sort(random.choice(total, min(most, total), replace=False))

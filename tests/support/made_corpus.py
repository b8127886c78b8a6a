"""A corpus of random tokens, without text or tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manta.corpus.manifest import Counts, Manifest, Shard, Split
from manta.sample import shard_file
from manta.sample.tokens import documents_batch, token_dtype


def write_corpus(
    folder: Path,
    splits: dict[Split, Sequence[Sequence[int]]],
    *,
    vocab_size: int = 64,
    seed: int = 0,
    sources: Sequence[str] = ("made",),
) -> Manifest:
    """A corpus of random tokens, without text or tokenizer.

    Args:
        folder: where to write it.
        splits: for each split, for each shard, the lengths of its documents in tokens.
        vocab_size: token 0 ends each document and stands nowhere else.
        seed: of the tokens.
        sources: whose the shards of each split are; the last one's are those that are left.
    """
    random = np.random.default_rng(seed)
    dtype = token_dtype(vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Shard] = []
    counts: dict[Split, dict[str, Counts]] = {}
    for split, layout in splits.items():
        counted = dict.fromkeys(sources, (0, 0))
        for number, lengths in enumerate(layout):
            documents = [random.integers(1, vocab_size, length, dtype=dtype) for length in lengths]
            for document in documents:
                document[-1] = 0
            names = [f"{split}-{number}-{i}" for i in range(len(documents))]
            source = min(number, len(sources) - 1)
            table = documents_batch(documents, names, source, sources, dtype)
            name = f"{split}-{number:05d}.arrow"
            with (folder / name).open("wb") as file:
                size, digest = shard_file.write(file, table)
            written.append(
                Shard(
                    file=name,
                    split=split,
                    documents=len(documents),
                    tokens=sum(lengths),
                    bytes=size,
                    sha256=digest,
                    source=sources[source],
                )
            )
            before = counted[sources[source]]
            counted[sources[source]] = (before[0] + len(lengths), before[1] + sum(lengths))
        counts[split] = {
            name: Counts(documents=documents, tokens=tokens)
            for name, (documents, tokens) in counted.items()
        }
    manifest = Manifest(
        manta_version="test",
        token_dtype=dtype,
        vocab_size=vocab_size,
        eos_id=0,
        tokenizer_file="tokenizer.json",
        tokenizer_sha256="",
        config={},
        counts=counts,
        dropped={},
        shards=written,
    ).sealed()
    manifest.write(folder)
    return manifest

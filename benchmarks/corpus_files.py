"""Shards and manifest of a corpus with one split, `train`: what the benchmarks' corpora share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manta.corpus.manifest import Counts, Manifest, Shard
from manta.sample import shard_file
from manta.sample.tokens import TokenDtype, documents_batch, token_dtype


def write_shard(
    folder: Path, number: int, documents: Sequence[np.ndarray], names: list[str]
) -> Shard:
    """Write some documents as a shard.

    Args:
        folder: of the corpus.
        number: of the shard.
        documents: tokens of each, uint16 or uint32 throughout, at least one document.
        names: of the documents.
    """
    dtype: TokenDtype = "uint16" if documents[0].dtype == np.uint16 else "uint32"
    name = f"train-{number:05d}.arrow"
    with (folder / name).open("wb") as file:
        size, digest = shard_file.write(file, documents_batch(documents, names, 0, ["made"], dtype))
    return Shard(
        file=name,
        split="train",
        documents=len(documents),
        tokens=sum(map(len, documents)),
        bytes=size,
        sha256=digest,
    )


def write_manifest(folder: Path, made: list[Shard], vocab_size: int) -> Manifest:
    """Write the manifest of these shards; token 0 ends each document."""
    documents, tokens = sum(s.documents for s in made), sum(s.tokens for s in made)
    manifest = Manifest(
        manta_version="benchmark",
        token_dtype=token_dtype(vocab_size),
        vocab_size=vocab_size,
        eos_id=0,
        tokenizer_file="tokenizer.json",
        tokenizer_sha256="",
        config={},
        counts={"train": {"made": Counts(documents=documents, tokens=tokens)}},
        dropped={},
        shards=made,
    ).sealed()
    manifest.write(folder)
    return manifest

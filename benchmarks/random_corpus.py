"""A prepared corpus of random tokens, for benchmarks that need no text: part of several of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manta.corpus import shards
from manta.corpus.manifest import Counts, Manifest, Shard

DOCUMENT = 1024  # tokens of each


def write(
    folder: Path, *, shard_count: int, shard_tokens: int, vocab_size: int, seed: int = 0
) -> Manifest:
    """Write a corpus with one split, `train`, of documents of DOCUMENT tokens.

    Args:
        folder: where to write it.
        shard_count: files.
        shard_tokens: in each of them, a multiple of DOCUMENT.
        vocab_size: token 0 ends each document and stands nowhere else.
        seed: of the tokens.
    """
    random = np.random.default_rng(seed)
    dtype = shards.token_dtype(vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        _write_shard(folder, number, random.integers(1, vocab_size, shard_tokens, dtype))
        for number in range(shard_count)
    ]
    documents, tokens = sum(s.documents for s in written), sum(s.tokens for s in written)
    manifest = Manifest(
        manta_version="benchmark",
        token_dtype=dtype,
        vocab_size=vocab_size,
        eos_id=0,
        tokenizer_file="tokenizer.json",
        tokenizer_sha256="",
        config={},
        counts={"train": {"random": Counts(documents=documents, tokens=tokens)}},
        dropped={},
        shards=written,
    ).sealed()
    manifest.write(folder)
    return manifest


def _write_shard(folder: Path, number: int, tokens: np.ndarray) -> Shard:
    documents = list(tokens.reshape(-1, DOCUMENT))
    for document in documents:
        document[-1] = 0
    names = [f"{number}-{i}" for i in range(len(documents))]
    dtype: shards.TokenDtype = "uint16" if tokens.dtype == np.uint16 else "uint32"
    name = f"train-{number:05d}.arrow"
    with (folder / name).open("wb") as file:
        size, digest = shards.write(file, shards.batch(documents, names, 0, ["random"], dtype))
    return Shard(
        file=name,
        split="train",
        documents=len(documents),
        tokens=len(tokens),
        bytes=size,
        sha256=digest,
    )

"""A prepared corpus of random tokens, for benchmarks that need no text: part of several of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from corpus_files import write_manifest, write_shard

from manta.corpus.manifest import Manifest, Shard
from manta.sample.tokens import token_dtype

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
    dtype = token_dtype(vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        _write_shard(folder, number, random.integers(1, vocab_size, shard_tokens, dtype))
        for number in range(shard_count)
    ]
    return write_manifest(folder, written, vocab_size)


def _write_shard(folder: Path, number: int, tokens: np.ndarray) -> Shard:
    documents = list(tokens.reshape(-1, DOCUMENT))
    for document in documents:
        document[-1] = 0
    return write_shard(folder, number, documents, [f"{number}-{i}" for i in range(len(documents))])

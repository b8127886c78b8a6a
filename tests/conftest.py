"""What several test folders share: one small Ray of our own for the whole session."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from manta.corpus import shards
from manta.corpus.manifest import Counts, Manifest, Shard, Split

# Ray reads this when it is imported, so it is set before any test module imports Ray.
os.environ["RAY_AUTH_MODE"] = "disabled"


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A fresh local Ray with two CPUs, that no other Ray on the machine can see or share."""
    import ray

    if ray.is_initialized():
        raise RuntimeError("a test started Ray itself; use the fixture ray_local instead")
    # Sockets lie below this folder, and their paths may be 107 characters long: keep it short.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level=logging.WARNING,
        _temp_dir=str(folder),
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def write_corpus(
    folder: Path,
    splits: dict[Split, Sequence[Sequence[int]]],
    *,
    vocab_size: int = 64,
    seed: int = 0,
) -> Manifest:
    """A corpus of random tokens, without text or tokenizer.

    Args:
        folder: where to write it.
        splits: for each split, for each shard, the lengths of its documents in tokens.
        vocab_size: token 0 ends each document and stands nowhere else.
        seed: of the tokens.
    """
    random = np.random.default_rng(seed)
    dtype = shards.token_dtype(vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Shard] = []
    counts: dict[Split, dict[str, Counts]] = {}
    for split, layout in splits.items():
        for number, lengths in enumerate(layout):
            documents = [random.integers(1, vocab_size, length, dtype=dtype) for length in lengths]
            for document in documents:
                document[-1] = 0
            names = [f"{split}-{number}-{i}" for i in range(len(documents))]
            table = shards.batch(documents, names, 0, ["made"], dtype)
            name = f"{split}-{number:05d}.arrow"
            with (folder / name).open("wb") as file:
                size, digest = shards.write(file, table)
            written.append(
                Shard(
                    file=name,
                    split=split,
                    documents=len(documents),
                    tokens=sum(lengths),
                    bytes=size,
                    sha256=digest,
                )
            )
        total = sum(map(sum, layout))
        counts[split] = {"made": Counts(documents=sum(map(len, layout)), tokens=total)}
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


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Manifest]:
    """The function `write_corpus`, for tests that need a corpus but no text."""
    return write_corpus

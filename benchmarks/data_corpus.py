"""The tokens that `data.py` reads, the same in each system's own format, and their check.

A sample's tokens are a formula of its number, which stands in its first two tokens. So
whoever has a batch knows which samples it holds and what their tokens must be.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEQ_LEN = 2048
VOCAB_SIZE = 2**15
ID_BITS = 14  # of a sample's number in its first token; the rest is in the second
TOKEN_BYTES = 2  # uint16
WRITTEN_AT_ONCE = 4096  # samples: 16 MiB
SHARD_BYTES = 2**26
DOCUMENT_TOKENS = 900  # mean length; documents cross samples, and samples cross shards
Ints = NDArray[np.int64]


def samples_in(size: int) -> int:
    """Samples in `size` bytes of tokens."""
    return size // (SEQ_LEN * TOKEN_BYTES)


def tokens_of(ids: Ints) -> Ints:
    """The tokens of some samples, shape (samples, SEQ_LEN)."""
    tokens = (ids[:, None] * 31 + np.arange(SEQ_LEN) * 17) % VOCAB_SIZE
    tokens[:, 0] = ids % 2**ID_BITS
    tokens[:, 1] = ids >> ID_BITS
    return tokens


def ids_of(heads: Ints) -> Ints:
    """The numbers of samples, given their first two tokens: shape (samples, 2)."""
    ids: Ints = heads[:, 0] + (heads[:, 1] << ID_BITS)
    return ids


def _parts(samples: int) -> Iterator[NDArray[np.uint16]]:
    for first in range(0, samples, WRITTEN_AT_ONCE):
        ids = np.arange(first, min(first + WRITTEN_AT_ONCE, samples), dtype=np.int64)
        yield tokens_of(ids).astype(np.uint16)


def corpus(folder: Path, form: str, samples: int) -> Path:
    """The folder with the corpus in a form, made unless it is there."""
    there = folder / f"{form}-{samples}"
    if not there.exists():
        aside = folder / f".{there.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        WRITERS[form](aside, samples)
        aside.rename(there)
    return there


def _manta(folder: Path, samples: int) -> None:
    """Shards as `manta prepare` writes them: documents end to end."""
    from corpus_files import write_manifest, write_shard

    from manta.corpus import Shard

    whole = np.concatenate([part.reshape(-1) for part in _parts(samples)])
    lengths = np.random.default_rng(0).geometric(
        1 / DOCUMENT_TOKENS, 2 * len(whole) // DOCUMENT_TOKENS + 100
    )
    ends = np.cumsum(lengths)
    ends = np.append(ends[ends < len(whole)], len(whole))
    made: list[Shard] = []
    first = 0
    while first < len(whole):
        last = int(ends[np.searchsorted(ends, min(first + SHARD_BYTES // 2, len(whole)))])
        cuts = np.append(first, ends[(ends > first) & (ends <= last)])
        documents = [whole[a:b] for a, b in pairwise(cuts)]
        names = [f"{len(made):016x}{i:016x}" for i in range(len(documents))]
        made.append(write_shard(folder, len(made), documents, names))
        first = last
    write_manifest(folder, made, VOCAB_SIZE)


def import_streaming() -> Any:
    """MosaicML Streaming, without its image datasets where torchvision doesn't fit Torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        sys.modules.setdefault("streaming.vision", types.ModuleType("streaming.vision"))
    import streaming

    return streaming


def _mosaic(folder: Path, samples: int) -> None:
    columns = {"tokens": f"ndarray:uint16:{SEQ_LEN}"}
    writer = import_streaming().MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES)
    with writer:
        for part in _parts(samples):
            for row in part:
                writer.write({"tokens": row})


def _litdata_rows(span: tuple[int, int]) -> Iterator[Any]:
    import torch

    for ids in np.array_split(np.arange(*span, dtype=np.int64), 64):
        if len(ids):
            yield torch.from_numpy(tokens_of(ids).astype(np.uint16).reshape(-1))


def _litdata(folder: Path, samples: int) -> None:
    """Chunks of SHARD_BYTES, cut for its loader of tokens."""
    from litdata import TokensLoader, optimize

    per_chunk = SHARD_BYTES // (SEQ_LEN * TOKEN_BYTES)
    spans = [(a, min(a + per_chunk, samples)) for a in range(0, samples, per_chunk)]
    optimize(
        _litdata_rows,
        inputs=spans,
        output_dir=str(folder),
        chunk_size=per_chunk * SEQ_LEN,
        item_loader=TokensLoader(block_size=SEQ_LEN),
        num_workers=1,
        verbose=False,
    )


def _tables(samples: int) -> Iterator[Any]:
    import pyarrow as pa

    for part in _parts(samples):
        rows = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), SEQ_LEN)
        yield pa.table({"tokens": rows})


def _arrow(folder: Path, samples: int) -> None:
    """What the bare gather and HF datasets map: one IPC stream of fixed-size lists."""
    import pyarrow as pa

    with (folder / "tokens.arrow").open("wb") as file:
        tables = _tables(samples)
        first = next(tables)
        with pa.ipc.new_stream(file, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)


def _parquet(folder: Path, samples: int) -> None:
    import pyarrow.parquet as pq

    for index, table in enumerate(_tables(samples)):
        # Neither compression nor dictionaries: random tokens have no use for either.
        pq.write_table(
            table, folder / f"{index:05d}.parquet", compression="none", use_dictionary=False
        )


def _memmap(folder: Path, samples: int) -> None:
    with (folder / "tokens.bin").open("wb") as file:
        for part in _parts(samples):
            file.write(part.tobytes())


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "manta": _manta,
    "mosaic": _mosaic,
    "litdata": _litdata,
    "arrow": _arrow,
    "parquet": _parquet,
    "memmap": _memmap,
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What a peer prints while it works goes to stderr, beside its warnings."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)

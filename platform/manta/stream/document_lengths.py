"""Where the documents of a split of text begin, in the one sequence that samples are cut from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manta.corpus.manifest import Manifest, Split
from manta.corpus.remote import local_shard
from manta.sample import shard_file
from manta.sample.tokens import document_tokens


def document_bounds(folder: str, manifest: Manifest, split: Split) -> NDArray[np.int64]:
    """Token offset at which each document of a split begins, and that of the end: (documents + 1,).

    Raises:
        CorpusError: if a shard is missing or damaged.
    """
    bounds = [np.zeros(1, np.int64)]
    for shard in manifest.shards_of(split):
        held = local_shard(folder, shard)
        try:
            _, ends = document_tokens(shard_file.read(held.path))
        finally:
            held.release()
        bounds.append(ends + bounds[-1][-1])
    return np.concatenate(bounds)

"""Offline: read documents, clean, drop duplicates, split, tokenize, write token shards.

`manta.corpus.prepare.prepare` makes a corpus and `manta.corpus.inspect.inspect` checks and
shows one. They are not imported here: they need Ray and Arrow, and whoever reads a manifest
alone should not wait for those.
"""

from manta.corpus.manifest import MANIFEST, Counts, Manifest, Shard, Split

__all__ = ["MANIFEST", "Counts", "Manifest", "Shard", "Split"]

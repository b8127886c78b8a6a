"""Prepare a corpus: read documents, clean, drop duplicates, split, tokenize, write token shards.

`manta.corpus.prepare.prepare` makes a corpus, and `manta.corpus.inspect.inspect` checks and shows
one. Neither is imported here, as code that only reads a manifest shouldn't wait for Ray and Arrow.
"""

from manta.corpus.manifest import MANIFEST, Counts, Manifest, Shard, Split

__all__ = ["MANIFEST", "Counts", "Manifest", "Shard", "Split"]

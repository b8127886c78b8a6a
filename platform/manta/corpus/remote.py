"""A prepared corpus in an object store: its files are fetched to this node when they are needed.

Each file is kept in the node's cache under the SHA-256 of its content, so that runs, ranks and
corpora share equal files, and no file in the cache is ever out of date.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from manta.config.errors import CorpusError
from manta.config.urls import is_url, join
from manta.storage.atomic import unwritable, whole_file
from manta.storage.cache import Cache, CachedFile, node_folder

if TYPE_CHECKING:
    from manta.corpus.manifest import Manifest, Shard

CHUNK = 4 * 2**20


def local_shard(folder: str, shard: Shard) -> CachedFile:
    """A shard of a corpus on this node, fetched first if the corpus is in a store.

    A fetched shard stays in the cache at least until it is released.

    Raises:
        CorpusError: if it can't be fetched, or doesn't match its checksum.
    """
    if not is_url(folder):
        return CachedFile(Path(folder) / shard.file)
    url = join(folder, shard.file)
    cache = Cache()
    try:
        return cache.hold(shard.sha256, shard.bytes, lambda out: _fetch(url, out, shard.sha256))
    except OSError as error:
        raise unwritable(cache.folder / shard.sha256, error) from None


def tokenizer_folder(folder: str, manifest: Manifest) -> Path:
    """A folder on this node with the files of the corpus's tokenizer."""
    if not is_url(folder):
        return Path(folder)
    # By the corpus's fingerprint, as two corpora may share one of the files and not the other.
    there = node_folder() / "tokenizers" / manifest.fingerprint
    # A corpus of tokens that has no tokenizer has an empty checksum instead.
    files = manifest.tokenizer_files if manifest.tokenizer_sha256 else {}
    for name, checksum in files.items():
        if not (there / name).exists():
            there.mkdir(parents=True, exist_ok=True)
            with whole_file(there / name) as out:
                _fetch(join(folder, name), out, checksum)
    return there


def _fetch(url: str, out: BinaryIO, sha256: str | None) -> None:
    from manta.corpus.sources import open_input

    seen = hashlib.sha256()
    try:
        source = open_input(url)
    except OSError as error:
        raise CorpusError(f"{url}: can't be read: {error}") from None
    with source:
        while chunk := _read(source, url):
            seen.update(chunk)
            out.write(chunk)
    if sha256 is not None and seen.hexdigest() != sha256:
        raise CorpusError(
            f"{url}: its content does not match the manifest's checksum; it is damaged: "
            "prepare the corpus again, or copy it anew"
        )


def _read(source: BinaryIO, url: str) -> bytes:
    try:
        return source.read(CHUNK)
    except OSError as error:
        raise CorpusError(f"{url}: can't be read: {error}") from None

"""A prepared corpus in an object store: its files come to this node when they are needed.

Each file lies in the node's cache under the SHA-256 of its content, so that runs, ranks and
corpora share what is the same, and nothing in the cache is ever out of date.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from manta.config.errors import CorpusError

if TYPE_CHECKING:
    from manta.corpus.manifest import Manifest

CACHE = "MANTA_CACHE"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
CHUNK = 4 * 2**20


def is_url(folder: str) -> bool:
    """Whether a corpus is named by a URL and not by a path."""
    return "://" in folder


def join(folder: str, name: str) -> str:
    """The path or URL of a file in a folder; a URL's options stay at its end."""
    base, mark, options = folder.partition("?") if is_url(folder) else (folder, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def local_file(folder: str, name: str, sha256: str) -> Path:
    """The path of a file of a corpus on this node, fetched first if it is elsewhere.

    Raises:
        CorpusError: if it can't be fetched, or is not what its checksum says.
    """
    if not is_url(folder):
        return Path(folder) / name
    cached = _cache() / sha256
    if not cached.exists():
        _fetch(join(folder, name), cached, sha256)
    return cached


def tokenizer_folder(folder: str, manifest: Manifest) -> Path:
    """A folder on this node that Transformers can load the corpus's tokenizer from."""
    if not is_url(folder):
        return Path(folder)
    there = _cache() / f"tokenizer-{manifest.tokenizer_sha256}"
    for name in TOKENIZER_FILES:
        if not (there / name).exists():
            there.mkdir(exist_ok=True)
            _fetch(join(folder, name), there / name, None)
    return there


def _fetch(url: str, to: Path, sha256: str | None) -> None:
    from manta.corpus.atomic import whole_file
    from manta.corpus.sources import open_input

    seen = hashlib.sha256()
    try:
        source = open_input(url)
    except OSError as error:
        raise CorpusError(f"{url}: can't be read: {error}") from None
    with source, whole_file(to) as out:
        while chunk := source.read(CHUNK):
            seen.update(chunk)
            out.write(chunk)
        if sha256 is not None and seen.hexdigest() != sha256:
            raise CorpusError(
                f"{url}: its content does not match the manifest's checksum; it is damaged: "
                "prepare the corpus again, or copy it anew"
            )


def _cache() -> Path:
    """The node's cache; `MANTA_CACHE` moves it."""
    default = Path.home() / ".cache" / "manta"
    folder = Path(os.environ.get(CACHE) or default) / "corpora"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""Find the input files of a config's sources, as one list in canonical order."""

from __future__ import annotations

import glob
import io
import os
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from manta.config.corpus import SourceSection
from manta.config.credentials import REMEDY, has_credentials, without_credentials
from manta.config.errors import CorpusError
from manta.corpus.saved_datasets import files_of_dataset
from manta.storage.store import open_filesystem

# Endings of the files that are read in a folder (in JSONL, before the ending of a compression).
# Text has no ending: every file in the folder is read.
ENDINGS: dict[str, tuple[str, ...]] = {
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc"),
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".xz": "xz"}
# Folders to skip: the standard library's own tests have sources that are broken on purpose.
NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
# Schemes that Arrow opens by itself; fsspec would need one more package for each.
ARROW_SCHEMES = {"s3", "gs", "gcs", "hdfs", "viewfs"}
READ_AHEAD = 4 << 20


@dataclass(frozen=True)
class InputFile:
    """A file to read documents from.

    Attributes:
        source: index of the file's source in the config.
        url: path or URL for `open_input`.
        shown: name of the file in messages.
        size: size in bytes; 0 if unknown.
        stamp: text that changes when the file does: time of modification, ETag or the like.
    """

    source: int
    url: str
    shown: str
    size: int
    stamp: str

    @property
    def compression(self) -> str | None:
        """Codec of a compressed text, by the file's ending."""
        return COMPRESSIONS.get(os.path.splitext(self.url.partition("?")[0])[1].lower())


def resolve(sources: list[SourceSection]) -> list[InputFile]:
    """The files of all sources: by source, then pattern, then path; each once in a source.

    Raises:
        CorpusError: naming every pattern that matches nothing or can't be listed.
    """
    files: list[InputFile] = []
    problems = []
    for index, source in enumerate(sources):
        seen: dict[str, InputFile] = {}
        for pattern in source.paths or [""]:
            try:
                found = _stdlib(index) if not pattern else _match(index, source, pattern)
            except CorpusError as error:
                problems.append(f"source '{source.name}': {error}")
                continue
            for file in found:
                seen.setdefault(file.url, file)
        files.extend(seen.values())
    if problems:
        raise CorpusError("\n".join(problems))
    return files


def open_input(url: str) -> BinaryIO:
    """Open a resolved file for reading; raises OSError."""
    if "://" not in url:
        return open(url, "rb")
    filesystem, path = _filesystem(url)
    if url.partition("://")[0] in ARROW_SCHEMES:
        # Buffered, as Arrow's files send a request for every read, even of one byte.
        return io.BufferedReader(filesystem.fs.open_input_file(path), READ_AHEAD)
    opened: BinaryIO = filesystem.open(path, "rb")
    return opened


def _match(index: int, source: SourceSection, pattern: str) -> list[InputFile]:
    remote = "://" in pattern
    paths = list(_remote(index, source, pattern) if remote else _local(index, source, pattern))
    if not paths:
        raise CorpusError(
            f"{pattern}: no such file, and as a pattern it matches none; correct the path"
            + ("" if remote or os.path.isabs(pattern) else f" (searched in {os.getcwd()})")
        )
    return sorted(paths, key=lambda file: file.url)


def _local(index: int, source: SourceSection, pattern: str) -> Iterator[InputFile]:
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        of_dataset = files_of_dataset(pattern) if source.format == "arrow" else None
        paths = _walk(pattern, source.format) if of_dataset is None else of_dataset
        if not paths:
            raise CorpusError(f"{pattern}: no {_endings(source.format)} files in this folder")
    elif os.path.lexists(pattern):
        paths = [pattern]
    else:
        paths = [path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)]
    for path in paths:
        yield _local_file(index, path)


def _walk(folder: str, kind: str) -> list[str]:
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        found += [os.path.join(here, n) for n in names if not _hidden(n) and _fits(n, kind)]
    return found


def _local_file(index: int, path: str) -> InputFile:
    try:
        status = os.stat(path)
    except OSError:  # such as a dangling link; reading it will raise an error
        return InputFile(index, os.path.abspath(path), path, 0, "unreadable")
    # Regular files only, as a pipe would block for ever.
    if not stat.S_ISREG(status.st_mode):
        raise CorpusError(f"{path}: neither a file nor a folder; give one of these")
    return InputFile(index, os.path.abspath(path), path, status.st_size, str(status.st_mtime_ns))


def _stdlib(index: int) -> list[InputFile]:
    """The sources of the running interpreter's standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for here, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_STDLIB]
        found += [os.path.join(here, name) for name in names if name.endswith(".py")]
    if not found:
        raise CorpusError(f"{root}: this interpreter comes without the standard library's sources")
    return sorted((_local_file(index, path) for path in found), key=lambda file: file.url)


def _remote(index: int, source: SourceSection, pattern: str) -> Iterator[InputFile]:
    if has_credentials(pattern):
        raise CorpusError(f"{without_credentials(pattern)}: {REMEDY}")
    filesystem, path = _filesystem(pattern)
    try:
        if filesystem.isfile(path):
            found = {path: filesystem.info(path)}
        elif filesystem.isdir(path):
            listed = filesystem.find(path, detail=True)
            found = {p: i for p, i in listed.items() if _wanted(p[len(path) :], source.format)}
        else:
            found = filesystem.glob(path, detail=True)
    except Exception as error:  # each file system raises exceptions of its own
        shown = pattern.partition("?")[0]
        raise CorpusError(f"{shown}: can't be listed: {_first_line(error)}") from None
    for name, info in found.items():
        if info.get("type") != "directory":
            url = _url(pattern, str(name))
            shown = url.partition("?")[0]
            yield InputFile(index, url, shown, int(info.get("size") or 0), _stamp(info))


def _filesystem(url: str) -> tuple[Any, str]:
    """An fsspec filesystem for `url`, and the path of `url` in it."""
    scheme, _, rest = url.partition("://")
    if scheme in ARROW_SCHEMES:
        path, _, query = rest.partition("?")
        root = f"{scheme}://{path.split('/')[0]}" + (f"?{query}" if query else "")
        return _arrow_filesystem(root), path
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise CorpusError(f"{url}: {scheme}:// needs a package: {error}") from None
    except (ValueError, OSError) as error:
        raise CorpusError(f"{url}: can't be opened: {_first_line(error)}") from None
    return filesystem, path


@lru_cache(maxsize=32)
def _arrow_filesystem(root: str) -> Any:
    from fsspec.implementations.arrow import ArrowFSWrapper

    try:
        return ArrowFSWrapper(open_filesystem(root))
    except OSError as error:
        raise CorpusError(f"{root}: can't be opened: {_first_line(error)}") from None


def _url(pattern: str, path: str) -> str:
    """The URL of a file found by `pattern`: same scheme and options, its own path."""
    if "://" in path:
        return path
    scheme, _, rest = pattern.partition("://")
    query = rest.partition("?")[2] if scheme in ARROW_SCHEMES else ""
    return f"{scheme}://{path}" + (f"?{query}" if query else "")


def _stamp(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "blob_id", "md5Hash", "mtime", "LastModified", "updated"):
        if info.get(key):
            return str(info[key])
    return ""


def _wanted(below: str, kind: str) -> bool:
    parts = [part for part in below.split("/") if part]
    return bool(parts) and not any(map(_hidden, parts)) and _fits(parts[-1], kind)


def _hidden(name: str) -> bool:
    """Whether a name is hidden, as are `_SUCCESS` and `_temporary` of Spark and others."""
    return name.startswith((".", "_"))


def _fits(name: str, kind: str) -> bool:
    if kind == "text":
        return True
    stem, ending = os.path.splitext(name.lower())
    if kind == "jsonl" and ending in COMPRESSIONS:
        name = stem
    return name.lower().endswith(ENDINGS[kind])


def _endings(kind: str) -> str:
    return " or ".join(ENDINGS.get(kind, ("readable",)))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

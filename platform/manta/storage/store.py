"""A place in an object store, with those methods of `pathlib.Path` that runs need.

Objects appear whole or not at all, folders exist only as parts of names, and nothing can be
renamed. Credentials come from the environment, where the store's own tools find them too; a URL's
options, such as ``?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http``, are those of
Arrow's file systems. ``file://`` behaves as a store does, for tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from manta.config.credentials import REMEDY, has_credentials, without_credentials
from manta.config.errors import ConfigError
from manta.config.urls import join

SCHEMES = ("s3", "gs", "gcs", "file")
S3_SECONDS = ("connect_timeout", "request_timeout")  # options that are numbers of seconds
S3_OPTIONS = ("region", "endpoint_override", "scheme", "tls_ca_file_path", *S3_SECONDS)
# Variables with the server's address, which Amazon's own tools read too.
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
CHUNK = 8 * 2**20
# S3 doesn't copy a larger object in one request.
MOST_COPIED = 5 * 2**30


@dataclass(frozen=True, order=True)
class StorePath:
    """A place in a store, named by its URL; methods that ask the store may raise OSError."""

    url: str

    @classmethod
    def of(cls, url: str) -> StorePath:
        """The place that `url` names.

        Raises:
            ConfigError: if it can't name a place in a store.
        """
        base, mark, options = url.partition("?")
        scheme, _, path = base.partition("://")
        if scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise ConfigError(
                f"{without_credentials(base)}: unknown store; give a URL that begins with one of "
                f"{known}"
            )
        if has_credentials(url):
            raise ConfigError(f"{without_credentials(base)}: {REMEDY}")
        parts = path.strip("/").split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise ConfigError(
                f"{base}: a URL of a folder may not have '//', '.' or '..' in its path; remove them"
            )
        root = "/" if scheme == "file" else ""
        return cls(f"{scheme}://{root}{'/'.join(parts)}{mark}{options}")

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(join(self.url, name))

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._base.rpartition("/")[2]

    @property
    def parent(self) -> StorePath:
        """The folder of this place."""
        return StorePath(self._base.rpartition("/")[0] + self.url[len(self._base) :])

    @property
    def _base(self) -> str:
        return self.url.partition("?")[0]

    # ------------------------------------------------------------------ one object

    def read_bytes(self) -> bytes:
        """The object's content; FileNotFoundError if there is none."""
        with self.open_input() as file:
            content: bytes = file.read()
        return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object's content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write `content` to the object, whole or not at all."""
        with self.open_output() as file:
            file.write(content)

    def exists(self) -> bool:
        """Whether this object exists, or one below it."""
        from pyarrow.fs import FileType

        filesystem, path = self.located()
        return bool(filesystem.get_file_info(path).type != FileType.NotFound)

    def is_dir(self) -> bool:
        """Whether there are objects below this place."""
        from pyarrow.fs import FileType

        filesystem, path = self.located()
        return bool(filesystem.get_file_info(path).type == FileType.Directory)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        filesystem, path = self.located()
        try:
            filesystem.delete_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def modified(self) -> float:
        """When the object was written, by the store's clock, in seconds since the epoch."""
        filesystem, path = self.located()
        info = filesystem.get_file_info(path)
        if info.mtime_ns is None:
            raise FileNotFoundError(f"{self} doesn't exist")
        return float(info.mtime_ns) / 1e9

    def open_input(self) -> Any:
        """The object, opened for random access."""
        filesystem, path = self.located()
        return filesystem.open_input_file(path)

    @contextmanager
    def open_output(self) -> Iterator[Any]:
        """Open the object for writing; it exists once the block has ended without an error.

        A large object is sent in parts while it is written. If the block fails, an object with
        part of the content may exist. By default Arrow would compress what is called ``.gz``, and
        read it as it is.
        """
        filesystem, path = self.located()
        if filesystem.type_name != "local":
            with filesystem.open_output_stream(path, compression=None) as file:
                yield file
            return
        filesystem.create_dir(os.path.dirname(path))
        aside = f"{path}.{os.getpid()}.tmp"
        try:
            with filesystem.open_output_stream(aside, compression=None) as file:
                yield file
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside)
            raise

    # -------------------------------------------------------------- what lies below

    def tree(self) -> dict[str, int]:
        """Sizes in bytes of all objects below this place, by their path relative to it."""
        return self._listed(recursive=True)

    def files(self) -> dict[str, int]:
        """Sizes in bytes of the objects directly in this place, by name."""
        return self._listed(recursive=False)

    def folders(self) -> list[str]:
        """Names of the folders directly in this place, but for hidden ones.

        A name has no ``/`` and is not ``..``: a local folder of that name stays below its parent.
        """
        from pyarrow.fs import FileType

        names = (info.base_name for info in self._infos(False, FileType.Directory))
        return sorted(name for name in names if not name.startswith("."))

    def glob(self, pattern: str) -> list[StorePath]:
        """The objects directly in this place whose names match `pattern`, by name."""
        return sorted(self / name for name in self.files() if fnmatch(name, pattern))

    def remove_tree(self) -> None:
        """Remove all objects below this place; nothing if there are none."""
        filesystem, path = self.located()
        with suppress(FileNotFoundError):
            filesystem.delete_dir(path)

    def copy_to(self, target: StorePath) -> None:
        """Copy the object, without downloading it if the store can copy it."""
        filesystem, path = self.located()
        there, to = target.located()
        if filesystem.type_name == "local":
            filesystem.create_dir(os.path.dirname(to))
        if there == filesystem and filesystem.get_file_info(path).size <= MOST_COPIED:
            filesystem.copy_file(path, to)
            return
        with self.open_input() as source, target.open_output() as file:
            while chunk := source.read(CHUNK):
                file.write(chunk)

    def _listed(self, recursive: bool) -> dict[str, int]:
        from pyarrow.fs import FileType

        _, path = self.located()
        begin = len(path.rstrip("/")) + 1
        infos = self._infos(recursive, FileType.File)
        return {info.path[begin:]: int(info.size) for info in infos}

    def _infos(self, recursive: bool, file_type: Any) -> list[Any]:
        from pyarrow.fs import FileSelector

        filesystem, path = self.located()
        selector = FileSelector(path, recursive=recursive, allow_not_found=True)
        return [info for info in filesystem.get_file_info(selector) if info.type == file_type]

    def located(self) -> tuple[Any, str]:
        """Arrow's file system for this place, and the path in it."""
        base, mark, options = self.url.partition("?")
        scheme, _, path = base.partition("://")
        if scheme == "file":
            return open_filesystem("file:///"), path
        return open_filesystem(f"{scheme}://{path.partition('/')[0]}{mark}{options}"), path


def open_filesystem(root: str) -> Any:
    """Arrow's file system for the bucket and options of a URL.

    Raises:
        OSError: if it can't be opened.
    """
    return _opened(root, next(filter(None, map(os.environ.get, ENDPOINTS)), ""))


@lru_cache(maxsize=32)
def _opened(root: str, endpoint: str) -> Any:
    from pyarrow import fs

    scheme, _, rest = root.partition("://")
    bucket, _, options = rest.partition("?")
    if scheme == "s3":
        return _open_s3(bucket, dict(parse_qsl(options)), endpoint)
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in options:
        root += f"{'&' if options else '?'}retry_limit_seconds=30"  # the default is 15 minutes
    try:
        return fs.FileSystem.from_uri(root)[0]
    except ValueError as error:  # such as a misspelt option
        raise OSError(str(error)) from None


def _open_s3(bucket: str, options: dict[str, str], endpoint: str) -> Any:
    """Open a bucket with bounded retries, which Arrow's own reading of URLs can't set.

    With this number of attempts an error is raised after half a minute if the server takes
    requests and never answers, and within a few seconds if it refuses them.
    """
    from pyarrow import fs

    if unknown := options.keys() - S3_OPTIONS:
        raise OSError(f"unknown options {sorted(unknown)}: use {', '.join(S3_OPTIONS)}")
    seconds = {key: _seconds(key, options.pop(key)) for key in S3_SECONDS if key in options}
    if endpoint and "endpoint_override" not in options:
        scheme, _, options["endpoint_override"] = endpoint.rstrip("/").rpartition("://")
        options.setdefault("scheme", scheme or "https")
    if "region" not in options and "endpoint_override" not in options:
        options["region"] = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        **options,
        **seconds,
        allow_delayed_open=True,  # one request for a small object in place of three
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
    )


def _seconds(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OSError(f"{option} = {text!r} of the URL must be a number of seconds") from None


def reason(error: BaseException) -> str:
    """The message of a store's error, shortened to one line."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return without_credentials(text.partition("Detail:")[0].strip().rstrip("."))

"""A registry of models: versions that never change, and aliases that name one of them.

A folder or a place in a store has a folder for each name, which has its versions, its aliases and
a log of what was done. A version's folder appears whole: by a rename, or in a store by its
`version.json`, which is written last. An alias is a stack of versions: promoting puts a version on
it, rolling back takes one off. One process at a time changes what belongs to a name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from manta.config.errors import RunError
from manta.config.mistakes import in_a_line
from manta.record.audit_log import ALIAS_SET, ROLLED_BACK, add_entry
from manta.record.registered_version import (
    REGISTRY,
    WEIGHTS_FOLDER,
    ModelVersion,
    VersionFile,
    read_version,
    split_name,
)
from manta.storage.cache import node_folder
from manta.storage.file_lock import FileLock
from manta.storage.lease import Lease
from manta.storage.place import ASIDE, Place, move, place_of, put, tree, writing
from manta.storage.run_folder import ALIASES, AUDIT, EVALUATIONS, VERSION, VERSIONS
from manta.storage.seal import read_sealed, seal_text
from manta.storage.store import StorePath, reason

# Environment variable with the registry's place, and the folder where it isn't set.
VARIABLE, DEFAULT = "MANTA_REGISTRY", "registry"
LOCK = ".registry.lock"
CHUNK = 8 * 2**20


class ModelRegistry:
    """The registry at a place.

    Args:
        place: a folder or a place in a store; it need not exist yet.

    Attributes:
        place: the same place.
    """

    def __init__(self, place: Place):
        self.place = place

    @classmethod
    def at(cls, place: str | None = None) -> ModelRegistry:
        """The registry at a path or URL; by default that of `MANTA_REGISTRY`, or `registry`."""
        return cls(place_of(place or os.environ.get(VARIABLE) or DEFAULT))

    # ------------------------------------------------------------------------------------ reading

    def names(self) -> list[str]:
        """Names of the models that have a version."""
        return [name for name in _folders(self.place) if self.numbers(name)]

    def numbers(self, name: str) -> list[int]:
        """Numbers of a model's versions that are whole, ascending."""
        versions = self.place / name / VERSIONS
        found = [int(one) for one in _folders(versions) if one.isdecimal()]
        return sorted(n for n in found if (versions / str(n) / VERSION).exists())

    def folder(self, name: str, number: int) -> Place:
        """The folder of a version, which has its `version.json` and its model."""
        return self.place / name / VERSIONS / str(number)

    def read(self, name: str, number: int) -> ModelVersion:
        """What is known of a version.

        Raises:
            RunError: if there is no such version, or it is not as it was written.
        """
        if number not in (known := self.numbers(name)):
            there = ", ".join(map(str, known)) or "none"
            raise RunError(
                f"{self.place}: the model '{name}' has no version {number}; there are: {there}"
            )
        return read_version(self.folder(name, number))

    def aliases(self, name: str) -> dict[str, list[int]]:
        """Alias → versions that it has named, the present one last.

        Raises:
            RunError: if the file can't be read, or is not as it was written.
        """
        path = self.place / name / ALIASES
        try:
            found: dict[str, list[int]] = json.loads(read_sealed(path.read_bytes()))["aliases"]
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{path}: can't be read: {in_a_line(error)}; restore the file from a copy"
            ) from None
        return found

    def number_of(self, name: str, tag: str = "") -> int:
        """The version that a tag names: a number, an alias, or "" for the newest version.

        Raises:
            RunError: if there is none.
        """
        known = self.numbers(name)
        if not known:
            there = ", ".join(self.names()) or "none"
            raise RunError(
                f"{self.place}: there is no model '{name}' in this registry; it has: {there}. Set "
                f"--registry or {VARIABLE} if you mean another one"
            )
        if not tag:
            return known[-1]
        if tag.isdecimal():
            return self.read(name, int(tag)).version
        stack = self.aliases(name).get(tag)
        if not stack:
            there = ", ".join(sorted(self.aliases(name))) or "none"
            raise RunError(
                f"{self.place}: the model '{name}' has no alias '{tag}'; there are: {there}. Set "
                f"it with 'manta promote {REGISTRY}{name}@{known[-1]} {name}@{tag}'"
            )
        return stack[-1]

    def verify(self, name: str, number: int) -> None:
        """Compare every file of a version with its checksum.

        Raises:
            RunError: naming the first file that is missing or was changed.
        """
        version, model = self.read(name, number), self.folder(name, number) / WEIGHTS_FOLDER
        for file, expected in version.files.items():
            path = _below(model, file)
            if not path.exists() or _sha256(path) != expected.sha256:
                raise RunError(
                    f"{path}: missing, or not as it was promoted: restore it from a copy, or roll "
                    "back to another version"
                )

    def local_model(self, name: str, number: int) -> Path:
        """The folder of a version's model on this machine; from a store it is fetched once.

        Raises:
            RunError: if a file is missing or has another size than it was promoted with, or in a
                store another content.
        """
        version, model = self.read(name, number), self.folder(name, number) / WEIGHTS_FOLDER
        if isinstance(model, StorePath):
            return self._fetched(version, model)
        for file, expected in version.files.items():
            path = model / file
            if not path.exists() or path.stat().st_size != expected.bytes:
                raise RunError(
                    f"{path}: missing, or not as it was promoted: restore it from a copy, or roll "
                    "back to another version"
                )
        return model

    def _fetched(self, version: ModelVersion, model: StorePath) -> Path:
        content = {name: file.sha256 for name, file in sorted(version.files.items())}
        key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        target = node_folder() / "models" / f"{version.name}-{version.version}-{key}"
        if target.exists():
            return target
        self.verify(version.name, version.version)
        aside = target.with_name(f"{ASIDE}{target.name}-{os.getpid()}")
        for file in version.files:
            _copy(_below(model, file), aside / file)
        try:
            os.rename(aside, target)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            if not target.exists():  # else another process was faster
                raise
        return target

    # ----------------------------------------------------------------------------------- changing

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """In it, no other process changes what belongs to a name.

        Raises:
            RunError: if the place can't be written, or in a store another process is at work.
        """
        place = self.place / name
        try:
            held = _hold(place)
        except OSError as error:
            said = error.strerror or reason(error)
            raise RunError(f"{place}: can't be written: {said}; set --registry") from None
        with closing(held):
            yield

    def add(self, model: Path, facts: Mapping[str, Any]) -> ModelVersion:
        """Copy a model's folder into the next version; `alone` must be held.

        Args:
            model: folder of a model, without a version's facts.
            facts: content of `ModelVersion` but for the number and the files.

        Raises:
            RunError: if it can't be written. Nothing is left behind that counts.
        """
        name = str(facts["name"])
        number = max(self.numbers(name), default=0) + 1
        target = self.folder(name, number)
        aside = target
        if isinstance(target, Path):
            aside = target.with_name(f"{ASIDE}{number}")
        try:
            _clear(aside)
            files = {
                file: _copy(model / file, _below(aside / WEIGHTS_FOLDER, file))
                for file in sorted(tree(model))
                if _counts(file)
            }
            version = ModelVersion.model_validate({**facts, "version": number, "files": files})
            put(aside / VERSION, seal_text(version.model_dump_json()).encode())
            if aside != target:
                move(aside, target)
        except OSError as error:
            raise RunError(f"{target}: can't be written: {error}; nothing was promoted") from None
        return version

    def point(self, name: str, alias: str, number: int) -> int | None:
        """Let an alias name a version; returns the version before; `alone` must be held.

        Raises:
            RunError: if it can't be written.
        """
        known = self.aliases(name)
        stack = known.get(alias, [])
        before = stack[-1] if stack else None
        if before != number:
            self._write_aliases(name, {**known, alias: [*stack, number]})
            add_entry(
                self.place / name, ALIAS_SET, {"alias": alias, "version": number, "before": before}
            )
        return before

    def roll_back(self, name: str, alias: str) -> tuple[int, int]:
        """Let an alias name the version before its present one; returns old and new version.

        Raises:
            RunError: if there is no version before.
        """
        self.number_of(name, alias)
        with self.alone(name):
            known = self.aliases(name)
            stack = known[alias]
            if len(stack) < 2:
                raise RunError(
                    f"{self.place}: {name}@{alias} has named no other version than {stack[-1]}: "
                    "there is nothing to go back to"
                )
            self.read(name, stack[-2])  # a version that can't be read is no way back
            self._write_aliases(name, {**known, alias: stack[:-1]})
            said = {"alias": alias, "version": stack[-2], "before": stack[-1]}
            add_entry(self.place / name, ROLLED_BACK, said)
        return stack[-1], stack[-2]

    def _write_aliases(self, name: str, aliases: Mapping[str, list[int]]) -> None:
        path = self.place / name / ALIASES
        try:
            put(path, seal_text(json.dumps({"aliases": dict(aliases)})).encode())
        except OSError as error:
            raise RunError(f"{path}: can't be written: {error}") from None


def registered_model(text: str) -> Path | None:
    """The folder that ``registry:[PLACE/]NAME[@TAG]`` names; None for any other text.

    Raises:
        ConfigError, RunError: if there is no such model.
    """
    if not text.startswith(REGISTRY):
        return None
    registry, name, number = registered(text)
    return registry.local_model(name, number)


def registered(text: str) -> tuple[ModelRegistry, str, int]:
    """Registry, name and version of ``registry:[PLACE/]NAME[@TAG]``.

    Raises:
        ConfigError, RunError: if there is no such model.
    """
    place, _, model = text.removeprefix(REGISTRY).rpartition("/")
    name, tag = split_name(model)
    registry = ModelRegistry.at(place or None)
    return registry, name, registry.number_of(name, tag)


def _hold(place: Place) -> FileLock | _HeldLease:
    return FileLock(place / LOCK) if isinstance(place, Path) else _HeldLease(place)


class _HeldLease:
    """A lease on a place in a store, until `close`."""

    def __init__(self, place: StorePath):
        self._lease = Lease(place)

    def close(self) -> None:
        """Give the lease up."""
        self._lease.release()


def _counts(file: str) -> bool:
    """Whether a file of a model's folder belongs to the model, not to what was done with it."""
    parts = file.split("/")
    return (
        not any(part.startswith(".") for part in parts)
        and parts[0] != EVALUATIONS
        and file != AUDIT
    )


def _folders(place: Place) -> list[str]:
    """Names of the folders in a place, but for hidden ones; none if there is no such place."""
    if isinstance(place, StorePath):
        return place.folders()
    try:
        return sorted(
            path.name for path in place.iterdir() if path.is_dir() and path.name[0] != "."
        )
    except (FileNotFoundError, NotADirectoryError):
        return []


def _below(place: Place, file: str) -> Place:
    for part in file.split("/"):
        place = place / part
    return place


def _clear(folder: Place) -> None:
    """Remove what a promotion that was killed has left."""
    if isinstance(folder, StorePath):
        folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Place, target: Place) -> VersionFile:
    told, size = hashlib.sha256(), 0
    with _reading(source) as there, writing(target) as here:
        while chunk := there.read(CHUNK):
            told.update(chunk)
            size += len(chunk)
            here.write(chunk)
    return VersionFile(bytes=size, sha256=told.hexdigest())


def _sha256(path: Place) -> str:
    told = hashlib.sha256()
    with _reading(path) as file:
        while chunk := file.read(CHUNK):
            told.update(chunk)
    return told.hexdigest()


def _reading(place: Place) -> Any:
    return place.open("rb") if isinstance(place, Path) else place.open_input()

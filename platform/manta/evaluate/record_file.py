"""A JSONL file of records to evaluate on: read whole and checked before a model is loaded."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.config.errors import RunError


@dataclass(frozen=True)
class FileRecord:
    """A record.

    Attributes:
        id: the record's own ``id``, or a digest of its content.
        place: file and line, for messages.
        content: keys and values of the record.
    """

    id: str
    place: str
    content: dict[str, Any]

    def text(self, key: str) -> str | None:
        """The text under a key; None without the key.

        Raises:
            RunError: if it is no text.
        """
        value = self.content.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(f"'{key}' must be a text, not {_short(value)}")
        return value

    def texts(self, key: str) -> list[str] | None:
        """The texts under a key, of which one alone stands for a list; None without the key.

        Raises:
            RunError: if they are no texts.
        """
        value = self.content.get(key)
        listed = [value] if isinstance(value, str) else value
        if listed is None:
            return None
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise self.wrong(f"'{key}' must be a text or a list of texts, not {_short(value)}")
        if not listed:
            raise self.wrong(f"'{key}' is an empty list")
        return listed

    def slices(self, keys: Sequence[str]) -> dict[str, str]:
        """The values of some keys, as names of slices; ``–`` where a key is missing."""
        found = {key: self.content.get(key) for key in keys}
        return {
            key: "–" if value is None else value if isinstance(value, str) else json.dumps(value)
            for key, value in found.items()
        }

    def wrong(self, said: str) -> RunError:
        """The error for something that is wrong with it."""
        return RunError(f"{self.place}: {said}")


@dataclass(frozen=True)
class RecordFile:
    """The records of a file, by id.

    Attributes:
        path: the file.
        records: the records, in the order of their ids.
        digest: SHA-256 of ids and contents, whatever the order of lines.
    """

    path: Path
    records: tuple[FileRecord, ...]
    digest: str


def read_records(path: Path, known: Collection[str], slices: Sequence[str]) -> RecordFile:
    """Read a file whose records may have some keys, and those of slices.

    Raises:
        RunError: naming the line that is no such record.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: can't be read: {error}") from None
    found = dict[str, FileRecord]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _record(line, f"{path}, line {number}")
        _check_keys(record, {*known, *slices, "id"})
        if record.id in found:
            other = found[record.id].place.rpartition(" ")[2]
            raise record.wrong(
                f"'{record.id}' is the id of line {other} as well"
                if "id" in record.content
                else f"it is the same as line {other}; remove one of them, or give both an 'id'"
            )
        found[record.id] = record
    if not found:
        raise RunError(f"{path}: no records in it")
    if lacking := [key for key in slices if not any(key in r.content for r in found.values())]:
        raise RunError(f"{path}: no record has the key '{lacking[0]}' that slices are to be by")
    ordered = tuple(found[id_] for id_ in sorted(found))
    told = hashlib.sha256()
    for one in ordered:
        told.update(_canonical({"id": one.id, "content": one.content}))
    return RecordFile(path, ordered, told.hexdigest())


def _record(line: str, place: str) -> FileRecord:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise RunError(f"{place}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{place}: not a JSON object")
    given = content.get("id")
    if given is not None and not isinstance(given, str | int):
        raise RunError(f"{place}: 'id' must be a text or a whole number, not {_short(given)}")
    own = hashlib.sha256(_canonical(content)).hexdigest()[:12]
    return FileRecord(own if given is None else str(given), place, content)


def _check_keys(record: FileRecord, known: set[str]) -> None:
    for key in record.content:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = (
                f"did you mean '{close[0]}'?"
                if close
                else f"known are {', '.join(sorted(known))}; name a key of your own in 'slices'"
            )
            raise record.wrong(f"unknown key '{key}'; {hint}")


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False).encode()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"

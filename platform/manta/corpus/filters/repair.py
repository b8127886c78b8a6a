"""Repair of texts: mojibake by ftfy, and one way to write each character of Unicode."""

from __future__ import annotations

import unicodedata
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from manta.config.extras import import_extra
from manta.config.filters import RepairSection
from manta.corpus.filters.filter_verdict import Keep, Verdict


class Repair:
    """Decodes lines again that were decoded by a wrong encoding, and normalises Unicode.

    Lines are repaired one by one, as a document may mix them with right ones. ftfy changes a line
    only where its characters are most unlikely to be meant.
    """

    name = "repair"

    def __init__(self, section: RepairSection):
        self._unicode: Any = section.unicode
        self._ftfy: Any = import_ftfy() if section.mojibake else None

    def judge(self, text: str) -> Verdict:
        """The repaired text; found: lines with `mojibake`, and whether it was `normalized`."""
        if text.isascii():
            return Keep(text)
        found = dict[str, int]()
        if self._ftfy is not None:
            text, lines = self._decoded(text)
            if lines:
                found["mojibake"] = lines
        if self._unicode and not unicodedata.is_normalized(self._unicode, text):
            text = unicodedata.normalize(self._unicode, text)
            found["normalized"] = 1
        return Keep(text, found)

    def _decoded(self, text: str) -> tuple[str, int]:
        """The text without mojibake, and the number of lines that had some."""
        lines, changed = text.split("\n"), 0
        for number, line in enumerate(lines):
            if line.isascii() or not self._ftfy.badness.is_bad(line):
                continue
            right = self._ftfy.fix_encoding(line)
            if right != line:
                lines[number], changed = right, changed + 1
        return ("\n".join(lines) if changed else text), changed


def ftfy_version() -> str:
    """The version of ftfy, by which its repairs may differ; empty if it is not installed."""
    try:
        return version("ftfy")
    except PackageNotFoundError:
        return ""


def import_ftfy() -> Any:
    """The package that repairs mojibake; ConfigError if it is not installed."""
    return import_extra("ftfy", "filters.repair.mojibake", "repair")

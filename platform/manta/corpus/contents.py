"""Detect a file's format from its first bytes, whatever its name is.

Files of text and JSONL are UTF-8, perhaps compressed. A file of another format is reported once,
with the remedy: read line by line it would give thousands of errors or, worse, meaningless text.
"""

from __future__ import annotations

import codecs

START_BYTES = 1024  # enough for any of the signs below
CODECS = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xfd7zXZ\x00": "xz",
}
OTHERS = {
    b"PAR1": "a Parquet file: set format: parquet",
    b"ARROW1": "an Arrow file: set format: arrow",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
}
TAR, TAR_AT = b"ustar", 257
# The longer marks first, as that of UTF-32 begins with that of UTF-16.
WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# Share of zeros among every second byte above which a text without a mark is taken for UTF-16.
ZEROS = 0.3
LEAST_WIDE = 8  # bytes to judge by


def codec_of(head: bytes) -> str | None:
    """The codec of a compressed file, by its first bytes; None for any other file."""
    return next((codec for magic, codec in CODECS.items() if head.startswith(magic)), None)


def misfit(head: bytes, kind: str) -> str | None:
    """Why a file that begins with `head` isn't text or JSONL; None if it may be.

    Args:
        head: the first `START_BYTES` of the file, decompressed.
        kind: `text` or `jsonl`.
    """
    for magic, what in OTHERS.items():
        if head.startswith(magic):
            return f"not {kind} but {what}"
    if head[TAR_AT:].startswith(TAR):
        return f"not {kind} but a tar archive: unpack it"
    encoding = _wide_encoding(head)
    if encoding is not None:
        return f"{encoding}, not UTF-8: convert it, as by 'iconv -f {encoding} -t UTF-8'"
    return _not_lines(head) if kind == "jsonl" else None


def _wide_encoding(head: bytes) -> str | None:
    for mark, name in WIDE_MARKS.items():
        if head.startswith(mark):
            return name
    if len(head) < LEAST_WIDE:
        return None
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        zeros = head[first::2].count(0) / len(head[first::2])
        others = head[1 - first :: 2].count(0) / len(head[1 - first :: 2])
        if zeros > ZEROS and others < zeros / 4:
            return name
    return None


def _not_lines(head: bytes) -> str | None:
    """The problem with JSON that has one value in the whole file, not one object a line."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"["):
        return (
            "a JSON array, not one JSON object a line: convert it, as by "
            "'jq -c .[] old.json > new.jsonl'"
        )
    if text.partition(b"\n")[0].strip() == b"{" and b"\n" in text:
        return (
            "a JSON object over several lines, not one a line: convert it, as by "
            "'jq -c . old.json > new.jsonl'"
        )
    return None

"""Paths and URLs of files, as text. A URL's options (``?region=…``) stay at its end."""

from __future__ import annotations


def is_url(path: str) -> bool:
    """Whether a folder or file is named by a URL and not by a path."""
    return "://" in path


def join(folder: str, name: str) -> str:
    """The path or URL of a file in a folder; a URL's options stay at its end."""
    base, mark, options = folder.partition("?") if is_url(folder) else (folder, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{options}"

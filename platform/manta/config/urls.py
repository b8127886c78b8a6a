"""Paths and URLs of files, as text: a URL's options (``?region=…``) stay at its end."""

from __future__ import annotations

import re

# Who may read a store is said by the environment: a URL is written into records.
_USER = re.compile(r"(?<=://)[^/@\s]*@")


def is_url(path: str) -> bool:
    """Whether a folder or file is named by a URL and not by a path."""
    return "://" in path


def join(folder: str, name: str) -> str:
    """The path or URL of a file in a folder; a URL's options stay at its end."""
    base, mark, options = folder.partition("?") if is_url(folder) else (folder, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def has_user(url: str) -> bool:
    """Whether a URL names a user, with or without a password."""
    return bool(_USER.search(url))


def userless(url: str) -> str:
    """The URL, if it names no user.

    Raises:
        ValueError: if it does.
    """
    if has_user(url):
        raise ValueError(
            "a user or password in a URL would be kept in records: give them by the environment"
        )
    return url


def without_user(text: str) -> str:
    """`text` with user and password taken out of every URL in it."""
    return _USER.sub("", text)

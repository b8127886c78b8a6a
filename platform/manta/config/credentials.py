"""Passwords and keys in URLs: a config with one is refused, and messages never show it.

A config is written to many places: the run's folder, W&B, the job's entry on the cluster's
dashboard, messages. Credentials of a store belong in the environment, where the store's own tools
look for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# ``user:password@``; in a web URL also a lone token. Other schemes have names there that aren't
# secret: gs://anonymous@bucket, abfs://container@account.
_USER = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]*@|(?<=http://)[^/@\s]+@|(?<=https://)[^/@\s]+@")
# ``?secret_key=…``, and the signatures of presigned URLs.
_OPTION = re.compile(
    r"(?i)([?&;](?:sig|[^=&#\s'\"]*"
    r"(?:secret|token|passw|credential|signature|(?:access|api|account)[-_]?key)[^=&#\s'\"]*)=)"
    r"[^&#\s'\"]+"
)
REMEDY = (
    "a password or key in a URL would be written to files and logs; remove it from the URL, and "
    "set it in the environment, where the store's own tools look for it (for s3:// "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
)


def has_credentials(text: str) -> bool:
    """Whether a URL in `text` has a password, a key or a signature."""
    return bool(_USER.search(text) or _OPTION.search(text))


def without_credentials(text: str) -> str:
    """`text` without the secrets in its URLs."""
    return _OPTION.sub(r"\1***", _USER.sub("", text))


def places_of_credentials(data: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in plain data that have credentials in a URL."""
    if isinstance(data, str):
        if has_credentials(data):
            yield at
    elif isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places_of_credentials(value, (*at, key))

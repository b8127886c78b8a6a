"""A seal on a small JSON document, by which every later change of it is noticed.

The seal is the SHA-256 of all else that the document says, however it is laid out. A document
of format 1 may lack it: older versions wrote none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "seal"
# The format of a document from which on it has a seal.
SEALED = 2


def digest(content: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with its seal."""
    return {**content, SEAL: digest(content)}


def seal_text(text: str) -> str:
    """A JSON object as it is written to a file: sealed, and marked as of a format that is."""
    return json.dumps(sealed({**json.loads(text), "format": SEALED}), indent=1) + "\n"


def read_sealed(content: bytes) -> str:
    """The JSON object in a file that `seal_text` made, or an older version without a seal.

    Raises:
        ValueError: if it is not what was written.
    """
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from None
    return json.dumps(unsealed(found))


def unsealed(content: Any) -> dict[str, Any]:
    """`content` without its seal, which was found right, or is an older version's that has none.

    Raises:
        ValueError: if it is not what was sealed.
    """
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    rest = {key: value for key, value in content.items() if key != SEAL}
    if SEAL not in content:
        if content.get("format", 1) != 1:
            raise ValueError(f"its {SEAL} is missing: it was changed after it was written")
    elif content[SEAL] != digest(rest):
        raise ValueError(f"its {SEAL} doesn't fit: it was changed after it was written")
    return rest

"""A seal on a small JSON document, which makes every later change of the document noticed.

The seal is the SHA-256 of all other keys and values, whatever their order and layout. A document
of format 1 may lack it, as older versions wrote none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "seal"
# Documents of this format or a later one have a seal.
SEALED = 2


def digest(content: Any) -> str:
    """The SHA-256 of a JSON value; the order of its keys makes no difference."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with its seal."""
    return {**content, SEAL: digest(content)}


def seal_text(text: str) -> str:
    """The text to write for a JSON object: sealed, and marked as of format `SEALED`."""
    return json.dumps(sealed({**json.loads(text), "format": SEALED}), indent=1) + "\n"


def read_sealed(content: bytes) -> str:
    """The JSON object in a file of `seal_text`, or in an older version's without a seal.

    Raises:
        ValueError: if the content is not what was written.
    """
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"it is not valid JSON ({error})") from None
    return json.dumps(unsealed(found))


def unsealed(content: Any) -> dict[str, Any]:
    """`content` without its seal, once that is checked; an older version's may have none.

    Raises:
        ValueError: if the seal doesn't match the content.
    """
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    rest = {key: value for key, value in content.items() if key != SEAL}
    if SEAL not in content:
        if content.get("format", 1) != 1:
            raise ValueError(f"its {SEAL} is missing: it was changed after it was written")
    elif content[SEAL] != digest(rest):
        raise ValueError(f"its {SEAL} doesn't match: it was changed after it was written")
    return rest

"""Token counts and spans: how they are written in configs, parsed and printed.

A *token count* is an integer, written plainly (``2000000``, ``2_000_000``) or with a
decimal suffix (``2M``, ``1.5B``; K, M, B, T are powers of 1000). A *span* is a token
count or a share of the run's horizon (``5%``).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_COUNT = re.compile(r"^(\d[\d_]*(?:\.\d+)?)\s*([KMBT]?)$", re.IGNORECASE)
_PERCENT = re.compile(r"^(\d+(?:\.\d+)?)\s*%$")


def parse_tokens(value: Any) -> int:
    """Read a token count.

    Raises:
        ValueError: if `value` is not a whole, non-negative number of tokens.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("write a token count such as 2000000, 2M or 1.5B")
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    match = _COUNT.match(text.strip())
    if not match:
        raise ValueError("write a token count such as 2000000, 2M or 1.5B")
    count = Decimal(match[1].replace("_", "")) * SUFFIXES[match[2].upper()]
    if count != count.to_integral_value():
        raise ValueError("a token count must be a whole number of tokens")
    return int(count)


def format_tokens(count: int) -> str:
    """A token count in its shortest exact form: ``2M``, ``1.5B``, ``2097152``."""
    for suffix in ("T", "B", "M", "K"):
        scaled = Decimal(count) / SUFFIXES[suffix]
        if scaled >= 1 and scaled == round(scaled, 2):
            digits = f"{scaled:f}"
            return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + suffix
    return str(count)


def parse_span(value: Any) -> int | str:
    """Read a span: a token count as an int, or a share of the horizon as ``"5%"``."""
    match = _PERCENT.match(value.strip()) if isinstance(value, str) else None
    if not match:
        try:
            return parse_tokens(value)
        except ValueError as error:
            raise ValueError(f"{error}, or a share of the horizon such as 5%") from None
    if Decimal(match[1]) > 100:
        raise ValueError("a share of the horizon must be at most 100%")
    return f"{match[1]}%"


def span_tokens(span: int | str, horizon: int) -> int:
    """Tokens in `span`, given the run's horizon in tokens (shares round down)."""
    if isinstance(span, int):
        return span
    return int(Decimal(span.rstrip("%")) * horizon / 100)


Tokens = Annotated[
    int,
    BeforeValidator(parse_tokens),
    PlainSerializer(format_tokens, return_type=str),
]
PositiveTokens = Annotated[Tokens, Field(gt=0)]
Span = Annotated[
    int | str,
    BeforeValidator(parse_span),
    PlainSerializer(lambda v: v if isinstance(v, str) else format_tokens(v), return_type=str),
]

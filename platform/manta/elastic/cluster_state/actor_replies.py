"""What actors answer, any of which may be dead: Ray gives an error in the answer's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

Name = TypeVar("Name")


def arrived(references: Sequence[Any]) -> bool:
    """Whether all answers, or errors, are there. Does not wait."""
    return len(_there(references, 0)) == len(references)


def died(reference: Any) -> bool:
    """Whether an error came. Does not wait: False as long as nothing is there."""
    return arrived([reference]) and _is_error(reference)


def dead(asked: Mapping[Any, Name], seconds: float) -> list[Name]:
    """The names of those from whom an error comes within `seconds`."""
    return [asked[reference] for reference in _there(list(asked), seconds) if _is_error(reference)]


def said(references: Sequence[Any], seconds: float) -> list[Any]:
    """The answers that come within `seconds`, without the errors."""
    there = _there(references, seconds)
    return [ray.get(reference) for reference in there if not _is_error(reference)]


def _there(references: Sequence[Any], seconds: float) -> list[Any]:
    """Those that are there within `seconds`; waits until all are."""
    if not references:
        return []
    done, _ = ray.wait(list(references), num_returns=len(references), timeout=seconds)
    return list(done)


def _is_error(reference: Any) -> bool:
    try:
        ray.get(reference)
    except RayError:
        return True
    return False

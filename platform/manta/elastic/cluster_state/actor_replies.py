"""Replies of actors, any of which may be dead: Ray then returns an error as the reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

Name = TypeVar("Name")


def arrived(references: Sequence[Any]) -> bool:
    """Whether all replies or errors have arrived. Does not wait."""
    return len(_there(references, 0)) == len(references)


def died(reference: Any) -> bool:
    """Whether an error has arrived. Does not wait: False while there is no reply."""
    return arrived([reference]) and _is_error(reference)


def dead(asked: Mapping[Any, Name], seconds: float) -> list[Name]:
    """The names of the actors that reply with an error within `seconds`."""
    return [asked[reference] for reference in _there(list(asked), seconds) if _is_error(reference)]


def replies(asked: Mapping[Any, Name], seconds: float) -> dict[Name, Any]:
    """The replies that arrive within `seconds`, without errors, by the names of the actors."""
    there = _there(list(asked), seconds)
    return {asked[reference]: ray.get(reference) for reference in there if not _is_error(reference)}


def said(references: Sequence[Any], seconds: float) -> list[Any]:
    """The replies that arrive within `seconds`, without errors."""
    return list(replies({reference: reference for reference in references}, seconds).values())


def _there(references: Sequence[Any], seconds: float) -> list[Any]:
    """The references that are ready within `seconds`; returns early if all are."""
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

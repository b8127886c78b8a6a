"""Parameters of trials as flat columns: short names, and values that W&B can draw."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import JsonValue

SEED = "run.seed"
# Names that configs and tables use beside a trial's parameters.
TAKEN = frozenset(
    [
        "name",
        "label",
        "seed",
        "status",
        "reason",
        "metric",
        "best_metric",
        "tokens",
        "own_tokens",
        "device_hours",
        "compute_hours",
        "own_compute_hours",
        "cost",
        "parent",
        "fork_tokens",
        "path",
        "run",
    ]
)


def column_names(keys: Iterable[str]) -> dict[str, str]:
    """A name for each dotted key: its last word, or as many last words as make it unique.

    ``schedule.lr.peak`` is ``peak``. Parameters that are no config keys lose their underscore:
    ``_stretch`` is ``stretch``.
    """
    found: dict[str, str] = {}
    every = list(dict.fromkeys(keys))
    left, words = every, 1
    while left:
        names = {key: _name(key, words) for key in left}
        used = {*TAKEN, *found.values()}
        clear = [
            key
            for key, name in names.items()
            if words > _words(key) or (name not in used and list(names.values()).count(name) == 1)
        ]
        found |= {key: names[key] for key in clear}
        left = [key for key in left if key not in clear]
        words += 1
    return {key: found[key] for key in every}


def _words(key: str) -> int:
    return key.count(".") + 1


def _name(key: str, words: int) -> str:
    """The last `words` words of a key; the whole key if it has no more."""
    return key if words > _words(key) else "_".join(key.split(".")[-words:]).strip("_")


def flat(params: Mapping[str, JsonValue], names: Mapping[str, str]) -> dict[str, Any]:
    """Parameters under their short names, without the seed.

    Lists and mappings become text, since W&B would flatten them.
    """
    return {names[key]: _plain(value) for key, value in params.items() if key in names}


def _plain(value: JsonValue) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value

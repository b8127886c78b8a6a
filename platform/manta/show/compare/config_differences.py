"""The keys in which configs differ, and the part that they have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from manta.config import RunConfig
from manta.config.on_change import OnChange, keys_of
from manta.record.param_names import SEED

# A comparison ignores a run's name, where it is kept and shown, and its seed (it averages those).
IGNORED = ("run.name", "run.storage", SEED, *keys_of(RunConfig, OnChange.LABEL))


def differences(values: Sequence[Any], at: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Dotted keys at which plain values differ; recurses while all values are mappings.

    A section that some configs leave empty differs as a whole, such as a model's sizes if another
    run uses a pretrained model.
    """
    if all(value == values[0] for value in values):
        return
    if not all(isinstance(value, Mapping) and value for value in values):
        yield at, list(values)
        return
    for key in dict.fromkeys(key for value in values for key in value):
        below = f"{at}.{key}" if at else str(key)
        yield from differences([value.get(key) for value in values], below)


def ignored(key: str) -> bool:
    """Whether a comparison ignores a key."""
    return any(key == ignored or key.startswith(f"{ignored}.") for ignored in IGNORED)


def without(config: Mapping[str, Any], keys: Sequence[str], at: str = "") -> dict[str, Any]:
    """A nested config without some dotted keys, and without sections that become empty."""
    found = {}
    for key, value in config.items():
        below = f"{at}.{key}" if at else str(key)
        if below in keys:
            continue
        if isinstance(value, Mapping) and value:
            value = without(value, keys, below)
            if not value:
                continue
        found[key] = value
    return found


def as_yaml(config: Mapping[str, Any]) -> str:
    """A config as YAML text; "" for an empty one."""
    text: str = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return text if config else ""

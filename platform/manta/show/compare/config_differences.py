"""In what configs differ, and what they have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from manta.config import RunConfig
from manta.config.on_change import OnChange, keys_of
from manta.record.param_names import SEED

# Keys that say what a run is called and where it is shown. Seeds are what runs are averaged over.
IGNORED = ("run.name", "run.storage", SEED, *keys_of(RunConfig, OnChange.LABEL))


def differences(values: Sequence[Any], at: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Dotted keys at which plain values differ, as deep as all of them are mappings.

    A section that some leave empty differs as a whole, such as the sizes of a model where another
    run takes a pretrained one.
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
    """Whether a key says nothing of what a run is."""
    return any(key == ignored or key.startswith(f"{ignored}.") for ignored in IGNORED)


def without(config: Mapping[str, Any], keys: Sequence[str], at: str = "") -> dict[str, Any]:
    """A nested config less some dotted keys, and less the sections that are empty then."""
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
    """A config as text; nothing if there is nothing in it."""
    text: str = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return text if config else ""

"""The kinds of config file (run, corpus, sweep, …) and the command that takes each."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from manta.config.credentials import without_credentials


@dataclass(frozen=True)
class ConfigKind:
    """A kind of file.

    Attributes:
        of: subject of such a file, with its article: "a run".
        takes: the command that takes such a file.
        marks: top-level keys that such a file has; those of a sweep and a tuning alone overlap.
    """

    of: str
    takes: str
    marks: frozenset[str]


RUN = ConfigKind("a run", "manta train", frozenset({"run", "corpus", "model", "schedule"}))
CORPUS = ConfigKind("a corpus", "manta prepare", frozenset({"out", "sources", "tokenizer"}))
SWEEP = ConfigKind("a sweep", "manta sweep", frozenset({"sweep", "base", "space"}))
TUNING = ConfigKind("a tuning", "manta tune", frozenset({"tuning", "base"}))
CLUSTER = ConfigKind(
    "a cluster",
    "manta doctor",
    frozenset({"provider", "cluster_name", "available_node_types", "apiVersion"}),
)
EVALUATION = ConfigKind(
    "an evaluation",
    "manta evaluate MODEL",
    frozenset({"splits", "generations", "calibration", "tasks", "own"}),
)
GATE = ConfigKind(
    "a gate", "manta gate MODEL", frozenset({"thresholds", "baseline", "regressions"})
)
DRIFT = ConfigKind(
    "a look at drift", "manta drift NEW --config", frozenset({"limits", "documents"})
)
RETRAINING = ConfigKind(
    "a retraining", "manta retrain", frozenset({"champion", "triggers", "pause_days"})
)
KINDS = (RUN, CORPUS, SWEEP, TUNING, CLUSTER, EVALUATION, GATE, DRIFT, RETRAINING)


def kind_of(keys: Collection[str]) -> ConfigKind | None:
    """The kind of a file with these top-level keys; None if no key belongs to one kind only."""
    found = max(KINDS, key=lambda kind: len(kind.marks.intersection(keys)))
    return found if found.marks.intersection(keys) else None


def mistaken(asked: ConfigKind, keys: Collection[str], source: str) -> str | None:
    """The message if a file is of another kind than `asked`; None if it isn't, or no key tells.

    Args:
        asked: the kind of file that was expected.
        keys: the file's top-level keys.
        source: the file's name, for the message.
    """
    found = kind_of(keys)
    if found is None or found is asked or (asked.marks - found.marks).intersection(keys):
        return None
    return (
        f"{source}: this is the config of {found.of}, not of {asked.of}; "
        f"it is for: {found.takes} {source}"
    )


def as_overrides(section: str, value: JsonValue, given: Sequence[str]) -> str:
    """Advice to move a base's section into the sweep's ``overrides=[…]``, after those given.

    Args:
        section: a section of a run's config that was given to a sweep.
        value: the value that the sweep's config gives for the section.
        given: the overrides that the sweep has already.
    """
    added = [f"{key}={text}" for key, text in _flat(section, value)]
    changed = {text.partition("=")[0] for text in added}
    kept = [text for text in given if text.partition("=")[0] not in changed]
    shown = without_credentials(", ".join(map(_in_list, [*kept, *added])))
    return f"it belongs to the base: overrides=[{shown}]"


def _flat(key: str, value: JsonValue) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for name, item in value.items() for pair in _flat(f"{key}.{name}", item)]
    return [(key, value if isinstance(value, str) else json.dumps(value))]


def _in_list(text: str) -> str:
    """A text as an item of a YAML list, quoted if needed."""
    return json.dumps(text, ensure_ascii=False) if set(text) & set("[]{},:#'\"") else text

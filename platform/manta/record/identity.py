"""Is this the same run? Which config keys may change when a run goes on, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from manta.config import RunConfig
from manta.config.errors import RunError
from manta.storage.seal import digest

# Everything else can change a weight, or makes the curves before and after a restart
# measure different things.
FREE_KEYS = {
    "run.storage": "where the run lies",
    "corpus": "where the corpus lies; what is in it is the fingerprint's business",
    "scaling": "the sum over a batch does not depend on how many workers share it",
    "train.micro_batch": "the sum over a batch does not depend on how it is cut",
    "train.activation_checkpointing": "computes the same again instead of keeping it",
    "guards": "what happens at bad steps to come; the ledger has those that were skipped",
    "checkpoint": "how often training is saved",
    "eval.at": "when a curve is measured, not what it measures",
    "eval.every": "how often a curve is measured, not what it measures",
    "eval.patience": "when to stop, not what is reached by then",
    "eval.min_delta": "when to stop, not what is reached by then",
    "log": "how often a curve is written down",
    "wandb": "where a curve is shown",
    "cost": "what a device hour costs",
    "faults": "a run that survives a fault is the same run",
}


def binding_of(config: RunConfig, fingerprint: str) -> str:
    """A digest of what a run is trained by: the corpus, and each key that may not change.

    Keys that have their default don't count, so that a key which a later version adds leaves
    the digests of older runs as they are.

    Args:
        config: of the run.
        fingerprint: of its corpus.
    """
    kept = _binding(config.model_dump(mode="json", exclude_defaults=True), "")
    return digest({"config": kept, "corpus": fingerprint})


def _binding(values: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Those of a config's values that may not change, at any depth."""
    kept = {}
    for key, value in values.items():
        dotted = f"{at}{key}"
        if is_free(dotted):
            continue
        kept[key] = _binding(value, f"{dotted}.") if isinstance(value, Mapping) else value
    return {key: value for key, value in kept.items() if value not in ({}, [])}


class Change(NamedTuple):
    """A key whose value is not what it was."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {_show(self.old)} → {_show(self.new)}"


_ABSENT = object()


def changes(old: RunConfig, new: RunConfig) -> list[Change]:
    """Every key, dotted, in which two configs differ."""
    return list(_changes(old.model_dump(mode="json"), new.model_dump(mode="json"), ""))


def _changes(old: Any, new: Any, at: str) -> Iterator[Change]:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        if old != new:
            yield Change(at, old, new)
        return
    for key in [*old, *(key for key in new if key not in old)]:
        below = f"{at}.{key}" if at else str(key)
        yield from _changes(old.get(key, _ABSENT), new.get(key, _ABSENT), below)


def is_free(key: str) -> bool:
    """True if a run may go on with another value of this dotted key."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def check_free_changes_only(where: object, old: RunConfig, new: RunConfig) -> list[Change]:
    """Refuse a config that is not that of the run at `where`.

    Returns:
        The changes that a run may go on with.

    Raises:
        RunError: naming every other key that differs.
    """
    found = changes(old, new)
    binding = [change for change in found if not is_free(change.key)]
    if binding:
        listed = "\n".join(f"  {change}" for change in binding)
        raise RunError(
            f"{where}: this run was started with another config:\n{listed}\n"
            "To go on with it, use the old values; to train with the new ones, "
            "give the run its own run.name."
        )
    return found


def _show(value: Any) -> str:
    return "(none)" if value is _ABSENT or value is None else str(value)

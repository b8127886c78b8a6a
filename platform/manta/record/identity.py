"""Whether a config belongs to the same run: a digest of the keys that may not change, and changes.

Each key declares in `manta.config.run` whether it may change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from manta.config import RunConfig
from manta.config.errors import RunError
from manta.config.on_change import OnChange, keys_of, on_change_of, rounds
from manta.storage.seal import digest

# Keys that may change now, but not in older versions, which counted them in a run's binding.
ONCE_BINDING = ("train.compile", "parallel.shard")


def free_keys() -> list[str]:
    """The keys that may change on a resume; a section stands for all of its keys."""
    return sorted(keys_of(RunConfig, OnChange.NOTE, OnChange.KEEP, OnChange.LABEL))


def binding_of(config: RunConfig, fingerprint: str, *, once: bool = False) -> str:
    """A digest of what binds a run: the corpus, and each key that may not change.

    Keys at their default don't count, so that a key which a later version adds leaves
    the digests of older runs as they are.

    Args:
        config: the run's config.
        fingerprint: the fingerprint of the run's corpus.
        once: whether to count `ONCE_BINDING` too, as older versions did.
    """
    values = config.model_dump(mode="json", exclude_defaults=True)
    kept = _binding(values, "", ONCE_BINDING if once else ())
    return digest({"config": kept, "corpus": fingerprint})


def bindings_of(config: RunConfig, fingerprint: str) -> set[str]:
    """The digests that a run of this config may have recorded: today's, and older versions'."""
    return {binding_of(config, fingerprint, once=once) for once in (False, True)}


def _binding(values: Mapping[str, Any], at: str, bound: Sequence[str]) -> dict[str, Any]:
    """The values of a config that may not change, at any depth, and those of keys in `bound`."""
    kept = {}
    for key, value in values.items():
        dotted = f"{at}{key}"
        if isinstance(value, Mapping) and value:
            kept[key] = _binding(value, f"{dotted}.", bound)
        elif dotted in bound or not is_free(dotted):
            kept[key] = value
    # A value that is empty itself counts, such as a section with its keys left out, but not in
    # older versions.
    empty = [key for key, value in values.items() if not bound and value == {} and key in kept]
    return {key: value for key, value in kept.items() if value not in ({}, []) or key in empty}


class Change(NamedTuple):
    """A key whose value differs between two configs."""

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
    """Whether a run may continue with another value of this dotted key."""
    return on_change_of(RunConfig, key) not in (OnChange.START, OnChange.FORK)


def check_free_changes_only(where: object, old: RunConfig, new: RunConfig) -> list[Change]:
    """Refuse a config that changes what binds the run at `where`.

    Returns:
        The changes that the run may continue with.

    Raises:
        RunError: naming every other key that differs.
    """
    found = changes(old, new)
    exact = old.train.reproducible is not None
    rounding = [c for c in found if exact and is_free(c.key) and rounds(RunConfig, c.key)]
    binding = [change for change in found if not is_free(change.key)]
    if binding or rounding:
        why = " (it changes rounding, which train.reproducible rules out)"
        listed = "\n".join([*(f"  {c}" for c in binding), *(f"  {c}{why}" for c in rounding)])
        raise RunError(
            f"{where}: this run was started with another config:\n{listed}\n"
            "To continue this run, use the old values. To continue from its checkpoint with the "
            "new ones, use `manta fork`. To train with the new ones from the start, choose another "
            "run.name."
        )
    return found


def _show(value: Any) -> str:
    if isinstance(value, str) and "\n" in value:
        return f"a text of {len(value.splitlines())} lines with SHA-256 {digest(value)[:12]}…"
    return "(none)" if value is _ABSENT or value is None else str(value)

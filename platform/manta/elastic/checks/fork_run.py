"""`manta fork`: a run that goes on from another one's checkpoint, by a config with changed keys.

Each key declares whether a fork may change it (`OnChange`): keys that decide the mathematics of
later steps may change, keys that decide which positions and tensors there are may not. The steps
before the fork are the parent's: their rows, ledger and schedule are kept as they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from manta.config import RunConfig, dump, load
from manta.config.errors import ConfigError, RunError
from manta.config.mixture import MixtureParts, PastMixture
from manta.config.on_change import OnChange, on_change_of
from manta.config.schedule import Past
from manta.corpus.manifest import Manifest
from manta.elastic.checks.frozen_source import base_fingerprint
from manta.elastic.checks.preflight import absolute
from manta.record.identity import Change, binding_of, changes
from manta.record.opening import check_base, place_of_run
from manta.record.run_state import read_state_if_any
from manta.schedule import Schedule
from manta.schedule.lengths import in_tokens
from manta.schedule.shares import positions_alike
from manta.state.checkpoint_files import TrainState, damage, name_of, newest, read_state, whole
from manta.storage.place import Place
from manta.storage.run_folder import CHECKPOINTS, CONFIG
from manta.stream.mixed_sources import mixture_of
from manta.train.fork import fork

# An override of `manta fork`: the decay begins at the checkpoint and ends at the horizon.
DECAY_NOW = "schedule.lr.decay=now"
# Keys of the schedule whose earlier values a fork keeps in `schedule.history`.
SHAPE = ("schedule.lr", "schedule.batch")


def fork_run(parent: Place, step: int | None, name: str, overrides: Iterable[str] = ()) -> Place:
    """Make a run that goes on from a checkpoint of another one; returns its folder.

    Args:
        parent: the other run's folder, or its URL in a store; it may be training.
        step: step of the checkpoint; None for the newest one.
        name: name of the new run, made beside the other one unless `run.storage` changes.
        overrides: changes of the config, as ``dotted.key=value``.

    Raises:
        ConfigError, RunError: naming the obstacle and the remedy; nothing is made then.
    """
    before = load(parent / CONFIG, RunConfig)
    storage = parent.absolute().parent if isinstance(parent, Path) else parent.parent
    beside = f"run.storage={json.dumps(str(storage))}"
    state = _state_of(parent, step)
    changed = [beside, *_from_now(parent, list(overrides), state), f"run.name={name}"]
    asked = absolute(load(parent / CONFIG, RunConfig, changed))
    after = _with_past_mixture(before, _with_past(before, asked, state), state)
    after = _with_lengths(before, after)
    found = _changes(parent, before, after)
    _check_schedule(parent, before, after, state)
    manifest = _manifest(parent, after)
    _check_mixture(parent, manifest, before, after, state)
    base = base_fingerprint(after)
    check_base(parent, read_state_if_any(parent), after, base)
    child = place_of_run(after)
    if child.exists():
        raise RunError(f"{child}: there is a run of this name already; choose another name")
    said = [str(change) for change in found if change.key not in ("run.name", "run.storage")]
    fork(
        parent,
        state.step,
        state.tokens,
        child,
        config=dump(after),
        changes=said,
        binding=binding_of(after, manifest.fingerprint),
        other_base=base if before.model.quantize != after.model.quantize else None,
    )
    return child


def _state_of(parent: Place, step: int | None) -> TrainState:
    """The training state in a checkpoint of the parent."""
    folder = parent / CHECKPOINTS
    if step is None:
        return read_state(newest(folder))
    if problem := damage(folder / name_of(step)):
        steps = [str(read_state(path).step) for path in whole(folder)]
        there = f"there are checkpoints of steps {', '.join(steps)}" if steps else "there is none"
        raise RunError(f"{folder / name_of(step)}: {problem}: take another checkpoint; {there}")
    return read_state(folder / name_of(step))


def _from_now(parent: Place, overrides: list[str], state: TrainState) -> list[str]:
    """The overrides, with the tokens that are left in place of a decay from now on."""
    if DECAY_NOW not in overrides:
        return overrides
    others = [each for each in overrides if each != DECAY_NOW]
    # Without the decay of the parent, which may be longer than a new horizon.
    horizon = load(parent / CONFIG, RunConfig, others).schedule.horizon
    if horizon <= state.tokens:
        raise ConfigError(
            f"{DECAY_NOW}: {parent} has {state.tokens:,} tokens at step {state.step:,}: give a "
            f"schedule.horizon above that, at which the decay ends"
        )
    return [*others, f"schedule.lr.decay={horizon - state.tokens}"]


def _with_past(before: RunConfig, after: RunConfig, state: TrainState) -> RunConfig:
    """The config, with the schedule up to the fork in its history if the schedule changes."""
    old, new = before.schedule, after.schedule
    same = (old.lr, old.batch, old.horizon) == (new.lr, new.batch, new.horizon)
    if same or old.history != new.history or not state.tokens:
        return after
    # The parent's last step may pass its horizon; tokens from the horizon on use the new schedule.
    now = Past(until=min(state.tokens, old.horizon), lr=old.lr, batch=old.batch)
    history = [
        past.model_copy(update={"horizon": past.horizon or old.horizon})
        for past in [*old.history, now]
    ]
    return after.model_copy(update={"schedule": new.model_copy(update={"history": history})})


def _with_lengths(before: RunConfig, after: RunConfig) -> RunConfig:
    """The config, with the lengths of the parent where they were, also at another horizon."""
    same = before.train.seq_len_warmup == after.train.seq_len_warmup
    if not same or before.schedule.horizon == after.schedule.horizon:
        return after
    warmup = in_tokens(before.train, before.schedule.horizon).seq_len_warmup
    train = after.train.model_copy(update={"seq_len_warmup": warmup})
    return after.model_copy(update={"train": train})


def _with_past_mixture(before: RunConfig, after: RunConfig, state: TrainState) -> RunConfig:
    """The config, with the mixture up to the fork in its history if the mixture changes."""
    old, new, horizon = before.data.mixture, after.data.mixture, before.schedule.horizon
    if not state.tokens or (old == new and (old is None or horizon == after.schedule.horizon)):
        return after
    if new is None:
        raise ConfigError(
            "data.mixture: the run has one, and a fork goes on with its sources: to have each "
            "sample of the corpus alike from here on, name all sources without a weight"
        )
    if new.history and (old is None or old.history != new.history):
        return after
    now = PastMixture(
        until=state.tokens,
        mixture=old and MixtureParts(sources=old.sources, temperature=old.temperature),
    )
    history = [
        past.model_copy(update={"horizon": past.horizon or horizon})
        for past in [*(old.history if old else ()), now]
    ]
    data = after.data.model_copy(update={"mixture": new.model_copy(update={"history": history})})
    return after.model_copy(update={"data": data})


def _changes(parent: Place, before: RunConfig, after: RunConfig) -> list[Change]:
    """The changed keys; raises if one of them is a key that no fork can change."""
    past = ("schedule.history", "data.mixture.history")
    found = [c for c in changes(before, after) if not c.key.startswith(past)]
    fixed = [
        change
        for change in found
        if change.key != "run.name" and on_change_of(RunConfig, change.key) is OnChange.START
    ]
    if fixed:
        listed = "\n".join(f"  {change}" for change in fixed)
        raise ConfigError(
            f"{parent}: a fork goes on with the same samples and tensors, so these keys can't "
            f"change:\n{listed}\nTo begin anew from this run's weights, `manta export` them and "
            "give model.pretrained"
        )
    return found


def _check_schedule(parent: Place, before: RunConfig, after: RunConfig, state: TrainState) -> None:
    """Refuse a schedule that changes steps before the fork, or has none after it."""
    old, new = (Schedule.resolve(c.schedule, c.train.seq_len) for c in (before, after))
    if new.horizon <= state.tokens:
        raise ConfigError(
            f"schedule.horizon: {parent} has {state.tokens:,} tokens at step {state.step:,}, and "
            f"the fork would end at {new.horizon:,}: give a larger schedule.horizon"
        )
    pairs = [[(p.step, p.batch) for p in s.plateaus if p.step < state.step] for s in (old, new)]
    if pairs[0] != pairs[1]:
        raise ConfigError(
            f"schedule.history: up to step {state.step:,}, {parent} had other batch sizes than it "
            "gives: leave it out, and it is written for you"
        )


def _check_mixture(
    parent: Place, manifest: Manifest, before: RunConfig, after: RunConfig, state: TrainState
) -> None:
    """Refuse a mixture that gives steps before the fork other samples, or can't be had."""
    old, new = (mixture_of(each, manifest) for each in (before, after))
    alike = positions_alike(old, new)
    if alike * after.train.seq_len < state.tokens:
        raise ConfigError(
            f"data.mixture.history: up to step {state.step:,}, {parent} had another mixture than "
            "it gives: leave it out, and it is written for you"
        )


def _manifest(parent: Place, after: RunConfig) -> Manifest:
    """The manifest of the corpus, which must be the parent's."""
    manifest = Manifest.read(after.corpus)
    state = read_state_if_any(parent)
    if state is not None and state.corpus_fingerprint != manifest.fingerprint:
        raise ConfigError(
            f"corpus: {after.corpus} has fingerprint {manifest.fingerprint[:12]}…, and {parent} "
            f"was trained on {state.corpus_fingerprint[:12]}…: a fork goes on with the same "
            "samples. To train on others from this run's weights, `manta export` them and give "
            "model.pretrained"
        )
    return manifest

"""`manta replay`: train a stretch of a run again, beside it, and compare the two to the bit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.config import RunConfig, dump, load
from manta.config.errors import ConfigError, RunError
from manta.config.metrics import LOSS, TERM, VAL_LOSS, VAL_LOSS_AVERAGE, VAL_LOSS_OF, VAL_TERM
from manta.config.schedule import Past, ScheduleSection
from manta.elastic.checks.preflight import absolute
from manta.elastic.checks.same_weights import compare_weights
from manta.record.checked_rows import read_checked
from manta.record.history import kind_of
from manta.record.identity import check_free_changes_only
from manta.record.run_config import recorded_config
from manta.schedule import Schedule
from manta.schedule.lengths import in_tokens
from manta.state.checkpoint_files import damage, name_of, read_state, whole
from manta.storage.place import Place, remove
from manta.storage.run_folder import CHECKPOINTS, CONFIG, LEDGER, RUN
from manta.stream.ledger import Ledger
from manta.train.fork import fork

# Metrics that training computes; others, such as speeds, are of the machines.
COMPUTED = (
    *(LOSS, VAL_LOSS, VAL_LOSS_AVERAGE),
    *("grad_norm", "lr", "batch_size", "epoch", "tokens"),
)
COMPUTED_BEFORE = (TERM, VAL_TERM, VAL_LOSS_OF)
# Columns of the ledger that say what a step was trained on.
TRAINED_ON = ("first_position", "last_position", "tokens", "digest", "skipped")


@dataclass(frozen=True)
class Replay:
    """A stretch of a run to train again.

    Attributes:
        run: the run's folder, or its URL in a store.
        first: steps done when the stretch begins: that of a checkpoint, or 0.
        last: step of the checkpoint with which it ends.
        config: the config that trains it again, as a run of its own beside the run.
        place: the folder of that run.
    """

    run: Place
    first: int
    last: int
    config: RunConfig
    place: Place

    def begin(self) -> None:
        """Give the run to be the checkpoint that the stretch begins with."""
        if self.first:
            tokens = read_state(self.run / CHECKPOINTS / name_of(self.first)).tokens
            fork(self.run, self.first, tokens, self.place, config=dump(self.config))

    def remove(self) -> None:
        """Remove what was trained again."""
        remove(self.place, RUN)


def plan_replay(run: Place, first: int, last: int, overrides: Iterable[str] = ()) -> Replay:
    """Check that a stretch can be trained again, and how.

    Args:
        run: the run's folder, or its URL in a store.
        first: step of a checkpoint to begin with, or 0 for the run's first step.
        last: step of a checkpoint to end with.
        overrides: changes that leave the mathematics as it is, as ``dotted.key=value``.

    Raises:
        ConfigError, RunError: naming the obstacle and the remedy.
    """
    if first >= last:
        raise ConfigError(f"replay: from step {first} to {last} there is no step to train")
    before = recorded_config(run)
    for step in filter(None, (first, last)):
        _check_checkpoint(run, step)
    asked = load(run / CONFIG, RunConfig, list(overrides))
    check_free_changes_only(run, before, asked)
    storage = run.absolute().parent if isinstance(run, Path) else run.parent
    name = f"{run.name}.replay-{first}-{last}"
    ours = [
        f"run.storage={json.dumps(str(storage))}",
        f"run.name={json.dumps(name)}",
        "wandb.mode=disabled",
        "faults=[]",
        "eval.evaluators=null",
    ]
    config = absolute(load(run / CONFIG, RunConfig, [*overrides, *ours]))
    schedule = _ending(before.schedule, before.train.seq_len, last)
    train = in_tokens(before.train, before.schedule.horizon)
    warmup = {"seq_len_warmup": train.seq_len_warmup}
    config = config.model_copy(
        update={"schedule": schedule, "train": config.train.model_copy(update=warmup)}
    )
    place = storage / name
    if place.exists():
        raise RunError(f"{place}: an earlier replay is there: remove it, or look at what it has")
    return Replay(run, first, last, config, place)


def _check_checkpoint(run: Place, step: int) -> None:
    folder = run / CHECKPOINTS
    if problem := damage(folder / name_of(step)):
        steps = ", ".join(str(read_state(path).step) for path in whole(folder)) or "none"
        raise RunError(
            f"{folder / name_of(step)}: {problem}. A replay begins and ends with a checkpoint; "
            f"there are those of steps {steps} (checkpoint.at names tokens whose checkpoints stay)"
        )


def _ending(old: ScheduleSection, seq_len: int, last: int) -> ScheduleSection:
    """The schedule up to step `last`, with which it ends."""
    whole_run = Schedule.resolve(old, seq_len)
    if last == whole_run.steps:
        return old
    end = whole_run.tokens_after(last)
    history = []
    for past in [*old.history, Past(until=old.horizon, lr=old.lr, batch=old.batch)]:
        past = past.model_copy(update={"horizon": past.horizon or old.horizon})
        if past.until >= end:
            history.append(past.model_copy(update={"until": end - 1}))
            break
        history.append(past)
    return old.model_copy(update={"horizon": end, "history": history})


def compare(replay: Replay) -> list[str]:
    """Compare a run with the stretch that was trained again, in a few lines for people.

    Raises:
        RunError: naming the first step that differs, or the tensors.
    """
    logged = _first_difference("metrics", _rows(replay.run, replay), _rows(replay.place, replay))
    steps = _first_difference("samples", _steps(replay.run, replay), _steps(replay.place, replay))
    weights = compare_weights(replay.run, replay.place, replay.last)
    if not weights.equal:
        found = "\n".join(weights.lines())
        raise RunError(f"{replay.run}: not what training it again gives\n{found}")
    return [
        f"steps {replay.first + 1:,} to {replay.last:,}: the same to the bit",
        f"  {steps:,} steps of the same samples, {logged:,} rows with the same losses and norms",
        *weights.lines()[1:],
    ]


def _rows(run: Place, replay: Replay) -> dict[tuple[int, str], Mapping[str, Any]]:
    """What training computed, by step and kind of row."""
    rows, problem = read_checked(run, lambda reader: list(reader.rows()))
    if problem:
        raise RunError(f"{run}: {problem}")
    return {
        (row["step"], kind_of(row)): {
            key: value
            for key, value in row.items()
            if key in COMPUTED or key.startswith(COMPUTED_BEFORE)
        }
        for row in rows
        if replay.first < row["step"] <= replay.last and kind_of(row) != "evaluation"
    }


def _steps(run: Place, replay: Replay) -> dict[tuple[int, str], Mapping[str, Any]]:
    """What each step was trained on, by the ledger."""

    def rows() -> Iterator[dict[str, Any]]:
        for part in Ledger(run / LEDGER).parts():
            yield from part.checked().table.to_pylist()

    return {
        (row["step"], "ledger"): {key: row[key] for key in TRAINED_ON}
        for row in rows()
        if replay.first < row["step"] <= replay.last
    }


def _first_difference(
    what: str,
    there: Mapping[tuple[int, str], Mapping[str, Any]],
    again: Mapping[tuple[int, str], Mapping[str, Any]],
) -> int:
    """How many entries both have.

    Raises:
        RunError: naming the first step at which they differ.
    """
    for step, kind in sorted(there.keys() & again.keys()):
        one, other = there[step, kind], again[step, kind]
        keys = [key for key in one if other.get(key) != one[key]]
        if keys:
            listed = ", ".join(f"{key} {one[key]} there, {other.get(key)} again" for key in keys)
            raise RunError(f"step {step:,} is the first whose {what} differ: {listed}")
    return len(there.keys() & again.keys())

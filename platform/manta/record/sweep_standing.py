"""How far a sweep has come, by its files alone: also while it runs, on any machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from pydantic import BaseModel

from manta.config.metrics import LOSS, VAL_LOSS, VAL_TERM
from manta.record.run_state import RunState, read_state_if_any
from manta.record.sweep_request import request_ids
from manta.record.sweep_state import SweepState, SweepTrial, read_sweep
from manta.storage.exclusive import lives
from manta.storage.place import Place
from manta.storage.run_folder import METRICS

# Statuses of trials that may still train.
OPEN = ("running", "waiting", "paused")
READING_THREADS = 8


class TrialStanding(BaseModel):
    """Where a trial stands.

    `tokens` is the number of tokens of its whole history that are trained, of `end_tokens`; the
    first `fork_tokens` are those of its `parent`. `value` is the last value of the sweep's metric,
    `rung` the last token count at which the trial was compared. `workers` and `tokens_per_s` are
    those of the worker group that trains now, `cost` that of all its groups.
    """

    name: str
    label: str
    status: str
    reason: str
    parent: str | None
    fork_step: int
    fork_tokens: int
    tokens: int
    end_tokens: int
    value: float | None = None
    rung: int | None = None
    workers: int | None = None
    tokens_per_s: float | None = None
    cost: float | None = None

    @property
    def left(self) -> int:
        """Tokens that the trial has still to train itself."""
        done = max(self.tokens, self.fork_tokens)
        return max(0, self.end_tokens - done) if self.status in OPEN else 0


class SweepStanding(BaseModel):
    """Where a sweep stands.

    `status` is `lost` if the sweep's driver gives no sign of life. `trained` and `left` are tokens,
    shared ones counted once; with trials that may pause, `left` is the most that there can be.
    `seconds_left` and `cost_left` follow from the speed of the trials that train now and from the
    cost of a token so far; None where that is not known. `requests_waiting` is the number of
    changes that users asked for and that the sweep has not taken yet.
    """

    name: str
    status: str
    metric: str
    mode: str
    trained: int
    left: int
    seconds_left: float | None
    cost: float | None
    cost_left: float | None
    requests_waiting: int
    trials: list[TrialStanding]


def sweep_standing(place: Place, alive: Callable[[Place], bool] = lives) -> SweepStanding:
    """Where the sweep at `place` stands.

    Args:
        place: folder of the sweep, or its place in a store.
        alive: tells whether a driver is at work on the sweep.

    Raises:
        RunError: if there is no sweep, or a record can't be understood.
    """
    state = read_sweep(place)
    gone = state.status == "running" and not alive(place)
    with ThreadPoolExecutor(READING_THREADS) as threads:
        trials = list(threads.map(partial(_trial, place, state, gone), state.trials))
    trained = sum(max(0, one.tokens - one.fork_tokens) for one in trials)
    left = sum(one.left for one in trials)
    costs = [one.cost for one in trials if one.cost is not None]
    cost = sum(costs) if costs else None
    return SweepStanding(
        name=state.name,
        status="lost" if gone else state.status,
        metric=state.metric,
        mode=state.mode,
        trained=trained,
        left=left,
        seconds_left=_seconds_left(trials, left),
        cost=cost,
        cost_left=cost * left / trained if cost is not None and trained else None,
        requests_waiting=_waiting(place, state),
        trials=trials,
    )


def _waiting(place: Place, state: SweepState) -> int:
    with suppress(OSError):
        return len(set(request_ids(place)) - {request.id for request in state.requests})
    return 0


def _trial(place: Place, state: SweepState, gone: bool, trial: SweepTrial) -> TrialStanding:
    run = read_state_if_any(place / trial.name)
    found = TrialStanding(
        name=trial.name,
        label=trial.label,
        status="lost" if gone and trial.status == "running" else trial.status,
        reason=trial.reason,
        parent=trial.parent,
        fork_step=trial.fork_step,
        fork_tokens=trial.fork_tokens,
        tokens=trial.tokens,
        end_tokens=trial.end_tokens,
        value=trial.value,
        rung=max(trial.scores, default=None),
    )
    if run is None:
        return found
    found.tokens = max(trial.tokens, run.totals.tokens)
    found.cost = run.totals.cost
    if found.value is None:
        found.value = _last_value(place / trial.name, run, state.metric)
    if found.status == "running" and run.groups:
        group = run.groups[-1]
        found.workers = group.world_size
        begun = max(group.tokens, trial.fork_tokens)
        if group.seconds and group.last_tokens > begun:
            found.tokens_per_s = (group.last_tokens - begun) / group.seconds
    return found


def _last_value(folder: Place, run: RunState, metric: str) -> float | None:
    """The last value of a metric in a run: of its record, or of the rows that alone have it."""
    if metric in (LOSS, VAL_LOSS):
        return run.results.loss if metric == LOSS else run.results.val_loss
    if metric.startswith(VAL_TERM):
        return run.results.val_terms.get(metric.removeprefix(VAL_TERM))
    with suppress(OSError):
        for line in reversed((folder / METRICS).read_bytes().splitlines()):
            with suppress(ValueError):  # the end of the file may be half-written
                row = json.loads(line)
                if isinstance(value := row.get(metric), int | float):
                    return float(value)
    return None


def _seconds_left(trials: Iterable[TrialStanding], left: int) -> float | None:
    """Seconds until all is trained, at the speed of the trials that train now."""
    speeds = [(one.left, one.tokens_per_s) for one in trials if one.tokens_per_s]
    if not speeds:
        return None
    slowest = max(tokens / speed for tokens, speed in speeds)
    return max(slowest, left / sum(speed for _, speed in speeds))

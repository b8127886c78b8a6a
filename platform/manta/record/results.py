"""The progress and cost of a run: the values that runs are compared by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from manta.config.metrics import VAL_LOSS
from manta.config.run import RunConfig
from manta.record.curve import read_curve
from manta.record.run_state import RunState


@dataclass(frozen=True)
class RunResults:
    """The progress and cost of one run; unknown values are None.

    `tokens` and `compute_hours` are those of the whole history, as if the run had been trained
    alone; `own_tokens` and `own_compute_hours` leave out what another run trained. Compute is the
    device time of steps alone. `device_hours` and `cost` are the record's: the time for which the
    run held devices, with starts, evaluations and work that was done twice. `manta compare` shows
    the same figures. `metric` is the metric's last value, `best_metric` its best.
    """

    metric: float | None
    best_metric: float | None
    tokens: int
    own_tokens: int
    compute_hours: float | None
    own_compute_hours: float | None
    device_hours: float
    cost: float | None
    path: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The known values, by name."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return {**known, "path": list(self.path)}


def run_results(
    state: RunState,
    config: RunConfig,
    rows: Iterable[Mapping[str, Any]],
    metric: str = VAL_LOSS,
    mode: Literal["min", "max"] = "min",
) -> RunResults:
    """The progress and cost of a run, from its record and history.

    Args:
        state: the run's record.
        config: the run's config.
        rows: the run's history, from its first row on.
        metric: key in the rows of the metric to compare by.
        mode: whether the smallest ("min") or largest ("max") value of `metric` is the best.
    """
    devices = config.scaling.devices_per_worker
    curve = read_curve(rows, metric, devices)
    tokens = curve.reached or state.totals.tokens
    forked = min(tokens, state.fork.tokens) if state.fork else 0
    hours = _hours(curve.device_seconds)
    shared = _hours(curve.seconds_at(forked)) if forked else 0.0
    own = None if hours is None or shared is None else hours - shared
    best = min if mode == "min" else max
    return RunResults(
        metric=curve.values[-1] if curve.values else None,
        best_metric=best(curve.values) if curve.values else None,
        tokens=tokens,
        own_tokens=tokens - forked,
        compute_hours=hours,
        own_compute_hours=own,
        device_hours=state.totals.device_seconds / 3600,
        cost=state.totals.cost,
        path=path_of(state, tokens),
    )


def path_of(state: RunState, tokens: int) -> tuple[str, ...]:
    """The runs that trained the history, each with the token count at its end: ``t000@4096``."""
    forks = [*state.fork.before, state.fork] if state.fork else []
    return (*(f"{fork.run}@{fork.tokens}" for fork in forks), f"{state.name}@{tokens}")


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600

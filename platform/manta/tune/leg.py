"""The function of one Ray Tune trial: it trains one leg of a trial of the sweep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import ray
from ray.actor import ActorHandle

from manta.config.errors import DivergedError, MantaError
from manta.elastic.checks.preflight import Checked, check
from manta.elastic.controller.holdings import WorkerShare
from manta.elastic.controller.warm_workers import WarmWorkers
from manta.elastic.driver.trainer import open_worker_pool, train
from manta.record.history import Tail
from manta.record.run_state import read_state_if_any
from manta.storage.exclusive import is_free
from manta.storage.run_folder import METRICS
from manta.tune.scheduler import Outcome
from manta.tune.sweep_plan import Leg

# Seconds between two reports of a leg's progress, each of which asks whether the sweep stops.
ASK_SECONDS = 0.5
# Longest time that Ray takes to end the processes of a driver that was killed.
ORPHAN_SECONDS = 60.0


def run_leg(config: dict[str, Any], coordinator: ActorHandle) -> None:
    """Train a trial to its end or until the sweep pauses it, and report how that ended.

    Ray Tune calls this in a process of its own. Failures of the trial are reported, not raised:
    the coordinator decides whether the trial is tried again.
    """
    name = config["trial"]
    leg, owner = ray.get(coordinator.begin.remote(name))
    watcher = _Watcher(coordinator, name, leg)
    outcome, reason = _outcome(leg, owner, watcher)
    ray.get(
        coordinator.ended.remote(
            name, outcome, watcher.tokens, watcher.value, " ".join(reason.split())
        )
    )


@cache
def _pool(resources: tuple[tuple[str, float], ...]) -> WarmWorkers | None:
    """Warm workers of this process, which Ray Tune reuses for one leg after the other."""
    return open_worker_pool(dict(resources))


def _outcome(leg: Leg, owner: str, watcher: _Watcher) -> tuple[Outcome, str]:
    try:
        checked = check(leg.config)
        if not _is_free(checked, watcher):
            return "interrupted", ""
        watcher.catch_up(checked)
        if leg.fork_step == checked.schedule.steps:
            _close_whole(checked, leg)
            return "finished", ""
        share = WorkerShare(watcher.coordinator, watcher.name)
        pool = _pool(tuple(sorted(leg.config.scaling.resources_per_worker.items())))
        result = train(
            checked,
            console=False,
            owner=owner,
            watcher=watcher,
            share=share,
            pool=pool,
            context=leg.context,
        )
    except KeyboardInterrupt:  # the sweep stopped before this leg had a worker
        return ("paused" if watcher.held else "interrupted"), ""
    except DivergedError as error:
        return "diverged", str(error)
    except MantaError as error:
        return "failed", str(error)
    if result.status == "paused":
        return ("paused" if watcher.held else "interrupted"), ""
    return result.status, ""


def _is_free(checked: Checked, watcher: _Watcher) -> bool:
    """Wait for an earlier leg that has outlived a killed driver; False if asked to stop."""
    until = time.monotonic() + ORPHAN_SECONDS
    while not is_free(checked.place) and time.monotonic() < until:
        if watcher.wants_stop():
            return False
        time.sleep(ASK_SECONDS)
    return True


def _close_whole(checked: Checked, leg: Leg) -> None:
    """Finish the record of a trial whose every step another trial has trained."""
    tracker = checked.tracker(console=False, context=leg.context)
    tracker.finish("finished")


class _Watcher:
    """Follows the run for the sweep: reports rungs and checkpoints, and has the run pause."""

    def __init__(self, coordinator: ActorHandle, name: str, leg: Leg):
        self.coordinator, self.name, self._leg = coordinator, name, leg
        self.tokens = 0
        self.value: float | None = None
        self.held = False
        self._leaving = False
        self._asked = 0.0

    def catch_up(self, checked: Checked) -> None:
        """Report what is recorded already: a driver that was killed may not have reported it."""
        for row in Tail(checked.run_dir / METRICS).rows():
            self.metrics(row)
        state = read_state_if_any(checked.run_dir)
        if state is not None and state.checkpoint is not None:
            self.checkpoint(state.checkpoint.step)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Take a row of metrics; at a rung, report the score and hear whether to continue."""
        self.tokens = max(self.tokens, int(row["tokens"]))
        value = row.get(self._leg.metric)
        if value is None:
            return
        self.value = float(value)
        for rung in self._leg.rungs.get(int(row["step"]), ()):
            answer = self.coordinator.scored.remote(self.name, rung, self.value)
            self.held = not ray.get(answer) or self.held

    def checkpoint(self, step: int) -> None:
        """Report a checkpoint, which other trials may fork from."""
        self.coordinator.checkpointed.remote(self.name, step)

    def wants_stop(self) -> bool:
        """Whether the trial has to pause, or it or the sweep was asked to stop."""
        now = time.monotonic()
        if now - self._asked >= ASK_SECONDS:
            self._asked = now
            self.coordinator.reached.remote(self.name, self.tokens)
            self._leaving = self._leaving or ray.get(self.coordinator.stopping.remote(self.name))
        return self.held or self._leaving

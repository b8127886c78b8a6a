"""Totals of a run, and of each worker group: steps, tokens, time, device time and cost."""

from __future__ import annotations

from collections.abc import Callable

from manta.config import RunConfig
from manta.record.run_state import Group, GroupStart, RunState, utc_now


class Accounting:
    """Keeps the totals and the worker groups of a run's state up to date.

    Args:
        state: the run's state; changed in place.
        config: the run's config.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, state: RunState, config: RunConfig, clock: Callable[[], float]):
        self._state, self._config, self._clock = state, config, clock
        self._opened = clock()
        self._wall_before = state.totals.wall_seconds
        self._group_began: float | None = None
        self._position = state.totals.tokens

    def reached(self, step: int, tokens: int) -> None:
        """Note that the workers have trained to `step`, for the first time or again."""
        self._position = max(self._position, tokens)
        totals = self._state.totals
        totals.steps = max(totals.steps, step)
        totals.tokens = max(totals.tokens, tokens)
        totals.samples = totals.tokens // self._config.train.seq_len
        if self._group_began is not None:
            group = self._state.groups[-1]
            group.last_step = max(group.last_step, step)
            group.last_tokens = max(group.last_tokens, tokens)

    def group_started(self, start: GroupStart) -> None:
        """Begin to account for a worker group; what it trains anew counts as trained again."""
        self._state.totals.tokens_again += max(0, self._position - start.tokens)
        self._position = start.tokens
        if start.hardware:
            self._state.hardware["workers"] = dict(start.hardware)
        self._state.groups.append(
            Group(
                attempt=start.attempt,
                world_size=start.world_size,
                devices=start.world_size * self._config.scaling.devices_per_worker,
                step=start.step,
                tokens=start.tokens,
                last_step=start.step,
                last_tokens=start.tokens,
                started=utc_now(),
                source=start.source,
                noticed=start.noticed,
            )
        )
        self._group_began = self._clock()

    def group_ended(self, reason: str) -> bool:
        """Stop to account for the worker group; returns whether there was one."""
        if self._group_began is None:
            return False
        self.measure()
        group = self._state.groups[-1]
        group.ended, group.reason = utc_now(), reason
        self._group_began = None
        return True

    def measure(self) -> None:
        """Bring the times and the cost up to date."""
        now, totals = self._clock(), self._state.totals
        totals.wall_seconds = self._wall_before + now - self._opened
        if self._group_began is not None:
            self._state.groups[-1].seconds = now - self._group_began
        totals.device_seconds = sum(g.seconds * g.devices for g in self._state.groups)
        price = self._config.cost.per_device_hour
        totals.cost = None if price is None else price * totals.device_seconds / 3600

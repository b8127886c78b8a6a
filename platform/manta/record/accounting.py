"""Totals of a run, and of each worker group: steps, tokens, time, device time and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from manta.config import RunConfig
from manta.config.metrics import AGAIN, COMPUTING, ENDING, OTHER
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
        self._idle_since = self._opened
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
            if step > group.last_step:
                self._progressed = self._clock()
            group.last_step = max(group.last_step, step)
            group.last_tokens = max(group.last_tokens, tokens)

    def group_started(self, start: GroupStart) -> None:
        """Begin to account for a worker group; what it trains anew counts as trained again."""
        self._state.totals.tokens_again += max(0, self._position - start.tokens)
        self._position = start.tokens
        # Steps up to this one were trained by groups before.
        self._trained = max((group.last_step for group in self._state.groups), default=start.step)
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
                waited=self._clock() - self._idle_since,
                first=self._idle_since == self._opened,
                hourly=start.hourly,
            )
        )
        self._group_began = self._progressed = self._clock()
        self._told, self._told_step = dict[str, float](), start.step

    def spent(self, step: int, seconds: Mapping[str, float]) -> None:
        """Take in what the group's time went to, as its workers tell it.

        Args:
            step: the last step that is in it.
            seconds: seconds since the group began, by activity.
        """
        if self._group_began is None:
            return
        news = {name: total - self._told.get(name, 0.0) for name, total in seconds.items()}
        self._told = dict(seconds)
        self._count(step, news, self._clock())

    def _count(self, step: int, news: dict[str, float], now: float) -> None:
        """Add to what the group spent, so that it sums to its seconds until `now`."""
        assert self._group_began is not None
        spent = self._state.groups[-1].spent
        computed = news.pop(COMPUTING, 0.0)
        steps = step - self._told_step
        again = min(max(0, self._trained - self._told_step), steps) / steps if steps else 0.0
        news |= {AGAIN: again * computed, COMPUTING: (1 - again) * computed}
        self._told_step = max(step, self._told_step)
        for name, seconds in news.items():
            spent[name] = spent.get(name, 0.0) + seconds
        rest = now - self._group_began - sum(spent.values())
        # Workers' clocks and news on its way: what is told may be a little more than what has been.
        into = OTHER if rest + spent.get(OTHER, 0.0) >= 0 else COMPUTING
        spent[into] = spent.get(into, 0.0) + rest

    def _count_end(self, now: float) -> None:
        """Count the time since the group's last news: steps as far as they are known, then none."""
        assert self._group_began is not None
        group = self._state.groups[-1]
        told = self._group_began + sum(group.spent.values())
        if self._progressed > told:
            self._count(group.last_step, {COMPUTING: self._progressed - told}, self._progressed)
        group.spent[ENDING] = now - self._group_began - sum(group.spent.values())

    def group_ended(self, reason: str) -> bool:
        """Stop to account for the worker group; returns whether there was one."""
        if self._group_began is None:
            return False
        self.measure()
        group = self._state.groups[-1]
        self._count_end(self._group_began + group.seconds)
        group.ended, group.reason = utc_now(), reason
        self._idle_since = self._group_began + group.seconds
        self._group_began = None
        return True

    def measure(self) -> None:
        """Bring the times and the cost up to date."""
        now, totals = self._clock(), self._state.totals
        totals.wall_seconds = self._wall_before + now - self._opened
        if self._group_began is not None:
            self._state.groups[-1].seconds = now - self._group_began
        # With the seconds before a group: its devices are held then, and paid for.
        groups = self._state.groups
        totals.device_seconds = sum(g.devices * (g.waited + g.seconds) for g in groups)
        if self._config.cost.has_price:
            totals.cost = sum(self._hourly(g) * (g.waited + g.seconds) for g in groups) / 3600

    def _hourly(self, group: Group) -> float:
        """Price of a group's devices for an hour; those of older records cost the usual price."""
        usual = self._config.cost.highest_price * group.devices
        return usual if group.hourly is None else group.hourly

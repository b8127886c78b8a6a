"""What is compared: runs or trials, those among them that differ in nothing but the seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from manta.record.curve import Curve
from manta.record.sweep_state import SweepTokens
from manta.schedule import Schedule
from manta.show.compare.comparison_stats import short

# A run that calls itself running, but has no driver that lives.
LOST = "lost"


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run, as far as a comparison looks at it.

    Attributes:
        params: dotted config keys in which trials differ, but for the seed.
        parent, fork_tokens: whose checkpoint it went on from, and where; else its own start.
        end_tokens: where it ends, or was to end.
        curve: of the metric; nothing while it has no rows.
        device_seconds: what its own run held devices for, by its record: steps, starts,
            evaluations and work that was done twice.
        cost: of these, by its record; nothing without a price.
        fingerprint: of its corpus.
        eval_sample: digest of the samples that its evaluations read.
        row_problem: why its rows may not be those that were written; "" if they are.
    """

    name: str
    label: str
    params: Mapping[str, Any]
    seed: int
    status: str
    reason: str
    parent: str | None
    fork_tokens: int
    end_tokens: int
    curve: Curve | None
    schedule: Schedule | None
    device_seconds: float | None
    cost: float | None
    fingerprint: str | None
    eval_sample: str | None
    row_problem: str = ""

    @property
    def reached(self) -> int:
        """Tokens of its whole history, trained by itself or by another."""
        return self.curve.reached if self.curve else 0

    @property
    def own_tokens(self) -> int:
        """Tokens that it trained itself."""
        return max(0, self.reached - self.fork_tokens)

    @property
    def shared_tokens(self) -> int:
        """Tokens that another trial trained for it."""
        return min(self.reached, self.fork_tokens)

    @property
    def value(self) -> float | None:
        """The metric at the end of its history."""
        return self.curve.values[-1] if self.curve and self.curve.values else None

    @property
    def compute(self) -> float | None:
        """Device-seconds of the steps of its whole history, as if it had been trained alone."""
        return self.curve.device_seconds if self.curve else None

    @property
    def own_compute(self) -> float | None:
        """Device-seconds of the steps that it trained itself."""
        if self.curve is None or (whole := self.curve.device_seconds) is None:
            return None
        return whole - (self.curve.seconds_at(self.fork_tokens) or 0.0)


@dataclass(frozen=True, eq=False)
class Configuration:
    """Trials that differ in nothing but the seed."""

    label: str
    params: Mapping[str, Any]
    trials: tuple[ComparedRun, ...]


@dataclass(frozen=True)
class Comparison:
    """All that was read.

    Attributes:
        keys: dotted keys in which trials differ, in config order.
        shared: the config that all have in common, as YAML.
        tokens: what sharing saved; nothing outside of a sweep.
        warnings: what makes the comparison less than it seems.
    """

    title: str
    question: str
    status: str
    metric: str
    mode: str
    keys: tuple[str, ...]
    trials: tuple[ComparedRun, ...]
    shared: str
    tokens: SweepTokens | None
    warnings: tuple[str, ...]

    @cached_property
    def configurations(self) -> tuple[Configuration, ...]:
        """Trials by what they are but for the seed, in the order of the input."""
        groups: dict[str, list[ComparedRun]] = {}
        for trial in self.trials:
            groups.setdefault(json.dumps(trial.params, sort_keys=True), []).append(trial)
        return tuple(
            Configuration(self._label(trials), trials[0].params, tuple(trials))
            for trials in groups.values()
        )

    @property
    def trained_tokens(self) -> int:
        """Tokens of all trials, those that several have in common counted once."""
        return sum(trial.own_tokens for trial in self.trials)

    @property
    def apart_tokens(self) -> int:
        """Tokens that it would have been, had each been trained alone to where it is."""
        return sum(trial.reached for trial in self.trials)

    @property
    def saved(self) -> float:
        """How many times fewer tokens that is; 1 if nothing was shared."""
        return self.apart_tokens / self.trained_tokens if self.trained_tokens else 1.0

    def told(self, params: Mapping[str, Any]) -> str:
        """Parameters and their values in words: ``lr.peak 0.003, batch 64``."""
        names = short_keys(self.keys)
        return ", ".join(f"{names[key]} {short(params[key])}" for key in self.keys)

    def _label(self, trials: Sequence[ComparedRun]) -> str:
        """What its trials are all called, if that is more than a name; else its parameters."""
        given = {trial.label for trial in trials}
        if len(given) == 1 and (self.tokens is None or trials[0].label != trials[0].name):
            return given.pop()
        if self.keys and (self.tokens or len(trials) > 1):
            return self.told(trials[0].params)
        return ", ".join(trial.label for trial in trials)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key without its section, where it can be told from the others so."""
    shortened = [key.partition(".")[2] or key for key in keys]
    return {
        key: name if shortened.count(name) == 1 else key
        for key, name in zip(keys, shortened, strict=True)
    }

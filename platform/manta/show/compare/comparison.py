"""What is compared: runs or trials, grouped by all but their seeds."""

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

# Status of a run whose record says running but whose driver is dead.
LOST = "lost"


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """The facts of one run that a comparison uses.

    Attributes:
        params: dotted config key → value, for the keys in which trials differ, without the seed.
        parent, fork_tokens: the run it was forked from, and at which token count; None and 0 if
            none.
        end_tokens: token count at which the run ends or was to end.
        curve: the metric's curve; None while there are no rows.
        device_seconds: device time of the run itself, by its record: steps, starts,
            evaluations and repeated work.
        cost: cost of `device_seconds`, by the record; None without a price.
        fingerprint: fingerprint of the run's corpus.
        eval_sample: digest of the samples that the run's evaluations read.
        measured: meaning of the compared loss; "" if the metric is no loss.
        row_problem: why the run's rows may not be those that were written; "" if they are.
        goodput: share of `device_seconds` that trained new steps; None if the record has none.
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
    measured: str = ""
    row_problem: str = ""
    goodput: float | None = None

    @property
    def reached(self) -> int:
        """Tokens of the whole history, trained by the run itself or by another."""
        return self.curve.reached if self.curve else 0

    @property
    def own_tokens(self) -> int:
        """Tokens that the run trained itself."""
        return max(0, self.reached - self.fork_tokens)

    @property
    def shared_tokens(self) -> int:
        """Tokens that another trial trained for it."""
        return min(self.reached, self.fork_tokens)

    @property
    def value(self) -> float | None:
        """The metric at the end of the history."""
        return self.curve.values[-1] if self.curve and self.curve.values else None

    @property
    def compute(self) -> float | None:
        """Device-seconds of the steps of the whole history, as if the run had trained alone."""
        return self.curve.device_seconds if self.curve else None

    @property
    def own_compute(self) -> float | None:
        """Device-seconds of the steps that the run trained itself."""
        if self.curve is None or (whole := self.curve.device_seconds) is None:
            return None
        return whole - (self.curve.seconds_at(self.fork_tokens) or 0.0)


@dataclass(frozen=True, eq=False)
class Configuration:
    """Trials that differ only in the seed."""

    label: str
    params: Mapping[str, Any]
    trials: tuple[ComparedRun, ...]


@dataclass(frozen=True)
class Comparison:
    """The runs or trials to compare, as read from their files.

    Attributes:
        keys: dotted keys in which trials differ, in config order.
        shared: the part of the config that all trials have in common, as YAML.
        tokens: the sweep's token counts with and without sharing; None outside of a sweep.
        warnings: reasons to trust the comparison less, one sentence each.
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
        """The trials grouped by all but the seed, in the order of the input."""
        groups: dict[str, list[ComparedRun]] = {}
        for trial in self.trials:
            groups.setdefault(json.dumps(trial.params, sort_keys=True), []).append(trial)
        return tuple(
            Configuration(self._label(trials), trials[0].params, tuple(trials))
            for trials in groups.values()
        )

    @property
    def trained_tokens(self) -> int:
        """Tokens of all trials; tokens that several share count once."""
        return sum(trial.own_tokens for trial in self.trials)

    @property
    def apart_tokens(self) -> int:
        """Tokens that all trials would have needed without sharing, up to where each is now."""
        return sum(trial.reached for trial in self.trials)

    @property
    def saved(self) -> float:
        """`apart_tokens` divided by `trained_tokens`; 1 if nothing was shared."""
        return self.apart_tokens / self.trained_tokens if self.trained_tokens else 1.0

    def told(self, params: Mapping[str, Any]) -> str:
        """Parameters and their values in words: ``lr.peak 0.003, batch 64``."""
        names = short_keys(self.keys)
        return ", ".join(f"{names[key]} {short(params[key])}" for key in self.keys)

    def _label(self, trials: Sequence[ComparedRun]) -> str:
        """The label of a configuration: one that its trials share, or else its parameters."""
        given = {trial.label for trial in trials}
        if len(given) == 1 and (self.tokens is None or trials[0].label != trials[0].name):
            return given.pop()
        if self.keys and (self.tokens or len(trials) > 1):
            return self.told(trials[0].params)
        return ", ".join(trial.label for trial in trials)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Dotted key → the key without its section, where that is unique."""
    shortened = [key.partition(".")[2] or key for key in keys]
    return {
        key: name if shortened.count(name) == 1 else key
        for key, name in zip(keys, shortened, strict=True)
    }

"""Ranks configurations: at the end, at equal tokens, and at equal compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from manta.show.compare.comparison import LOST, ComparedRun, Comparison, Configuration
from manta.show.compare.comparison_stats import (
    Difference,
    Estimate,
    Importance,
    difference,
    estimate,
    explained,
    importance,
    pooled_noise,
    reached_by_all,
    value_at,
)

Kind = Literal["end", "tokens", "compute"]
ENDED = ("finished",)
# Statuses that are compared at their end, in order of preference: paused trials may still go on.
COMPARED = ("finished", "paused", "stopped")
# Runs whose lengths differ by less than this share were trained equally long.
EQUAL_LENGTH = 0.01
UNFINISHED = ("running", "interrupted", "failed", LOST)


@dataclass(frozen=True)
class RankedConfig:
    """A configuration in one comparison.

    `values` has the metric of each of `trials`, its seeds. `behind` is how much worse than the
    best it is; None for the best itself.
    """

    configuration: Configuration
    trials: tuple[ComparedRun, ...]
    values: tuple[float, ...]
    estimate: Estimate
    behind: Difference | None


@dataclass(frozen=True)
class View:
    """One comparison of the configurations, best first.

    Attributes:
        kind: whether trials are compared at their end, at equal tokens, or at equal compute.
        at: the token count or device-seconds of the comparison; None at the end.
        finished: whether only finished trials are compared.
    """

    kind: Kind
    at: float | None
    finished: bool
    entries: tuple[RankedConfig, ...]


@dataclass(frozen=True)
class Ranking:
    """All comparisons, and the order that follows from them.

    Attributes:
        main: the comparison that sets the order: at the end, or else at equal tokens.
        matched: the comparisons at equal tokens and at equal compute that can be made.
        ranked: every configuration, best first; those that can't be compared come last.
        importances: the importance of each parameter, largest first, from `importance_view`.
        noise_share: the share of the metric's variance that lies between seeds.
    """

    main: View | None
    matched: tuple[View, ...]
    ranked: tuple[Configuration, ...]
    importances: tuple[Importance, ...]
    importance_view: View | None
    noise_share: float | None

    def entry(self, view: View | None, configuration: Configuration) -> RankedConfig | None:
        """The entry of a configuration in `view`, if there is one."""
        entries = view.entries if view else ()
        return next((e for e in entries if e.configuration is configuration), None)

    def view(self, kind: Kind) -> View | None:
        """The comparison of one kind that has all trials that can be compared."""
        return next((view for view in self.matched if view.kind == kind), None)


def rank(comparison: Comparison) -> Ranking:
    """Order the configurations of `comparison`, and make every comparison that is possible."""
    ended = [t for t in comparison.trials if t.status in ENDED and t.value is not None]
    compared = _compared(comparison)
    end = _view(comparison, "end", None, ended, lambda trial: trial.value, finished=True)
    matched = [
        view
        for kind in ("tokens", "compute")
        for trials in ([compared, ended] if len(ended) > 1 else [compared])
        if (view := _matched(comparison, kind, trials, finished=trials is ended))
    ]
    main = end if end and len(end.entries) > 1 else None
    matched = _distinct(matched, trained_equally(main) if main else False)
    main = main or next((view for view in matched if view.kind == "tokens"), end)
    basis = _basis(main, matched)
    rows = [
        (trial.params, value)
        for entry in (basis.entries if basis else ())
        for trial, value in zip(entry.trials, entry.values, strict=True)
    ]
    groups = [entry.values for entry in basis.entries] if basis else []
    by_configuration = explained(groups) if len(groups) > 1 else None
    return Ranking(
        main=main,
        matched=tuple(matched),
        ranked=_order(comparison, main),
        importances=tuple(importance(rows)),
        importance_view=basis,
        noise_share=None if by_configuration is None else 1 - by_configuration,
    )


def _compared(comparison: Comparison) -> list[ComparedRun]:
    """The trials that are compared at their end."""
    with_values = [t for t in comparison.trials if t.value is not None and not too_short(t)]
    found = [trial for trial in with_values if trial.status in COMPARED]
    if sum(any(t in found for t in c.trials) for c in comparison.configurations) > 1:
        return found
    return [trial for trial in with_values if trial.status in (*COMPARED, *UNFINISHED)]


def too_short(trial: ComparedRun) -> bool:
    """Whether an unfinished trial has only one value: the one at which it began."""
    return trial.status not in ENDED and (trial.curve is None or len(trial.curve.values) < 2)


def _matched(
    comparison: Comparison, kind: Kind, trials: Sequence[ComparedRun], *, finished: bool
) -> View | None:
    """The comparison at the last token count or compute that all of `trials` reached."""

    def xs(trial: ComparedRun) -> Sequence[float]:
        assert trial.curve is not None
        return trial.curve.tokens if kind == "tokens" else trial.curve.seconds

    def value(trial: ComparedRun) -> float | None:
        assert trial.curve is not None
        assert at is not None
        found = xs(trial)
        return value_at(found, trial.curve.values, at) if found else None

    at = reached_by_all([xs(trial) for trial in trials])
    if at is None:
        return None
    view = _view(comparison, kind, at, trials, value, finished=finished)
    return view if view and len(view.entries) > 1 else None


def _view(
    comparison: Comparison,
    kind: Kind,
    at: float | None,
    trials: Sequence[ComparedRun],
    value: Callable[[ComparedRun], float | None],
    *,
    finished: bool,
) -> View | None:
    chosen = set(trials)
    found: list[tuple[Configuration, tuple[ComparedRun, ...], tuple[float, ...]]] = []
    for configuration in comparison.configurations:
        pairs = [
            (trial, got)
            for trial in _one_a_seed(configuration.trials)
            if trial in chosen and (got := value(trial)) is not None
        ]
        if pairs:
            here, values = zip(*pairs, strict=True)
            found.append((configuration, here, values))
    if not found:
        return None
    pooled = pooled_noise([values for _, _, values in found])
    sign = 1 if comparison.mode == "min" else -1
    found.sort(key=lambda item: sign * sum(item[2]) / len(item[2]))
    best = found[0][2]
    return View(
        kind,
        at,
        finished,
        tuple(
            RankedConfig(
                configuration,
                here,
                values,
                estimate(values, pooled),
                _worse(difference(best, values, pooled), sign) if index else None,
            )
            for index, (configuration, here, values) in enumerate(found)
        ),
    )


def _one_a_seed(trials: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The first trial of each seed: repeats of one run say nothing of seed noise."""
    found: dict[int, ComparedRun] = {}
    for trial in trials:
        found.setdefault(trial.seed, trial)
    return list(found.values())


def _worse(found: Difference, sign: int) -> Difference:
    """`found` turned so that positive means worse, whichever way the metric goes."""
    return Difference(sign * found.gap + 0.0, found.half)  # a tie is 0, and not -0


def trained_equally(view: View) -> bool:
    """Whether all trials in `view` have about equally many tokens; whole batches may differ."""
    reached = [trial.reached for entry in view.entries for trial in entry.trials]
    return max(reached) - min(reached) <= EQUAL_LENGTH * max(reached)


def _distinct(views: Sequence[View], equal_ends: bool) -> list[View]:
    """`views` without comparisons of finished trials that repeat another one."""
    seen, found = set(), []
    for view in views:
        at_the_end = view.finished and view.kind == "tokens" and equal_ends
        if (view.kind, view.at) not in seen and not at_the_end:
            found.append(view)
        seen.add((view.kind, view.at))
    return found


def _basis(main: View | None, matched: Sequence[View]) -> View | None:
    """The comparison to compute importances from: `main` if it has half of all trials."""
    most = max(matched, key=_size, default=main)
    return most if main is None or (most and 2 * _size(main) < _size(most)) else main


def _size(view: View) -> int:
    return sum(len(entry.values) for entry in view.entries)


def _order(comparison: Comparison, main: View | None) -> tuple[Configuration, ...]:
    """The order: first that of `main`, then the furthest first, then those without a value."""
    ranked = [entry.configuration for entry in main.entries] if main else []
    sign = 1 if comparison.mode == "min" else -1

    def sort_key(configuration: Configuration) -> tuple[bool, bool, int, float]:
        values = [t.value for t in configuration.trials if t.value is not None]
        out = all(t.status in ("diverged", "failed") for t in configuration.trials)
        reached = max(trial.reached for trial in configuration.trials)
        return (not values, out, -reached, sign * sum(values) / len(values) if values else 0.0)

    rest = [c for c in comparison.configurations if c not in ranked]
    return (*ranked, *sorted(rest, key=sort_key))

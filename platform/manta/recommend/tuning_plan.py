"""The plan of a tuning, printed before anything runs: its phases, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table

from manta.config.tuning import Phase
from manta.config.units import format_tokens
from manta.recommend.tuning_phases import Tuning
from manta.recommend.tuning_state import TuningState
from manta.record import number_format
from manta.show.console.run_plan import cost_rows
from manta.tune.sweep_plan import Outline


@dataclass(frozen=True)
class PhaseCost:
    """What a phase trains.

    Attributes:
        runs: number of its runs, over all seeds.
        tokens: tokens that it trains, stages that runs share once.
        apart: tokens without sharing.
        done: whether the phase is over.
    """

    runs: int
    tokens: int
    apart: int
    done: bool


def cost_of(outline: Outline, done: bool) -> PhaseCost:
    """What the sweep of a phase trains."""
    apart = sum(trial.end_tokens for trial in outline.trials)
    shared = sum(branch.tokens for branch in outline.branches.values())
    return PhaseCost(outline.count, shared, apart, done)


def tuning_plan(tuning: Tuning, costs: Mapping[Phase, PhaseCost]) -> RenderableType:
    """The plan of a tuning for the terminal.

    Args:
        tuning: the tuning.
        costs: tokens and runs of each phase that is a sweep.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("phase", "runs", "tokens", "of the run's", "without sharing", ""):
        table.add_column(name, justify="left" if name in ("phase", "") else "right")
    if "micro_batch" in tuning.config.phases:
        many = f"up to {tuning.most_rows()} rows" if tuning.finds_micro_batch else "left out"
        table.add_row("micro_batch", "", "some steps", "", "", many)
    for phase, cost in costs.items():
        table.add_row(
            phase,
            f"{cost.runs}",
            number_format.count(cost.tokens),
            f"{cost.tokens / tuning.horizon:.0%}",
            number_format.count(cost.apart),
            "done" if cost.done else _said(tuning, phase),
        )
    left = sum(cost.tokens for cost in costs.values() if not cost.done)
    total = sum(cost.tokens for cost in costs.values())
    table.add_row(
        "together",
        f"{sum(cost.runs for cost in costs.values())}",
        number_format.count(total),
        f"{total / tuning.horizon:.0%}",
        number_format.count(sum(cost.apart for cost in costs.values())),
    )
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(tuning, left):
        facts.add_row(name, value)
    return Group(facts, "", table)


def _facts(tuning: Tuning, tokens: int) -> Iterator[tuple[str, str]]:
    yield "Tuning", str(tuning.place)
    yield (
        "Run",
        f"{tuning.config.base}: {format_tokens(tuning.horizon)} tokens, batch {tuning.size}, "
        f"highest rate {tuning.peak:g}",
    )
    yield from cost_rows(tuning.run, tokens)


def _said(tuning: Tuning, phase: Phase) -> str:
    if phase == "range":
        rates = tuning.rates
        return f"{len(rates)} rates from {rates[0]:.3g} to {rates[-1]:.3g}"
    if phase == "critical":
        depths = sorted(
            {each.depth for each in tuning.forks(TuningState(name="", asked={}, base={}))}
        )
        shown = ", ".join(number_format.count(depth) for depth in depths)
        return f"batches of {', '.join(map(str, tuning.sizes))} from {shown} tokens"
    return "tuned beside constant; left out if the constant batch is best"

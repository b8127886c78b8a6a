"""`manta train --plan`: a run is checked as it is before it starts, and its plan is printed."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from manta.config.run import RunConfig
from manta.elastic.checks.preflight import check, check_continues, check_model
from manta.record.run_state import read_state_if_any
from manta.show.console.remarks import PlannedRun
from manta.show.console.run_plan import plan_rows


def show_run_plan(config: RunConfig) -> None:
    """Print what a run would train, without Ray, a worker or a file of the run.

    Args:
        config: the run's config, with absolute paths.

    Raises:
        MantaError: for any mistake that `manta train` would stop at before a worker starts.
    """
    checked = check(config)
    check_continues(checked)
    tried = check_model(checked).tried
    assert tried is not None
    state = read_state_if_any(checked.place)
    done = state.totals.steps if state else 0
    place = f"{checked.place}, {f'continued after step {done:,}' if done else 'new'}"
    plan = PlannedRun(checked.config, checked.manifest, checked.schedule)
    samples = checked.validation.samples if checked.validation else 0
    table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
    for name, value in plan_rows(plan, place, tried, samples, state):
        table.add_row(name, value)
    Console(highlight=False, soft_wrap=True).print(table)

"""Where a sweep stands, by its files, and the lines and JSON that say it."""

from __future__ import annotations

import json
from pathlib import Path

import made_sweep
import pytest
from made_sweep import HORIZON, trial
from typer.testing import CliRunner

from manta.cli import app
from manta.record.run_state import read_state
from manta.record.sweep_standing import SweepStanding, sweep_standing

HALF = HORIZON // 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep with a trial of each kind, as its driver leaves it while it runs."""
    trials = [
        trial("whole", 1e-3),
        trial(
            "going", 3e-3, parent="whole", fork_tokens=HALF, fork_step=50, until=HORIZON * 3 // 4
        ),
        trial("held", 1e-2, until=HALF),
        trial("next", 2e-3),
    ]
    trials[1].status, trials[2].status, trials[3].status = "running", "paused", "waiting"
    return made_sweep.write_sweep(
        tmp_path / "s", trials, lambda made: made_sweep.ends_at(2.0), status="running"
    )


def test_each_trial_stands_where_its_run_says(folder: Path) -> None:
    found = sweep_standing(folder, alive=lambda place: True)
    whole, going, held, coming = found.trials
    assert found.status == "running"
    assert (whole.tokens, whole.left) == (HORIZON, 0)
    assert (going.tokens, going.left, going.workers) == (HORIZON * 3 // 4, HORIZON // 4, 2)
    assert going.value == pytest.approx(2.0 + 2.0 / 4 + 0.02)
    assert going.tokens_per_s is not None
    assert 0 < going.tokens_per_s < made_sweep.SPEED, "a start and evaluations take time"
    assert (held.status, held.tokens, held.left, held.workers) == ("paused", HALF, HALF, None)
    assert (coming.tokens, coming.value, coming.left) == (0, None, HORIZON)
    assert found.trained == HORIZON + HORIZON // 4 + HALF
    assert found.left == HORIZON // 4 + HALF + HORIZON
    assert found.seconds_left == pytest.approx(found.left / going.tokens_per_s)
    costs = [read_state(folder / name).totals.cost or 0 for name in ("whole", "going", "held")]
    assert found.cost == pytest.approx(sum(costs))
    assert found.cost_left == pytest.approx(sum(costs) * found.left / found.trained)


def test_a_sweep_without_a_driver_is_lost_and_has_no_time_left(folder: Path) -> None:
    found = sweep_standing(folder)
    assert (found.status, found.trials[1].status) == ("lost", "lost")
    assert found.seconds_left is None


def test_the_command_says_it_in_lines_and_as_json(folder: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["sweep-status", str(folder)])
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert lines[0] == "s: lost; 4 trials: 1 finished, 1 lost, 1 paused, 1 waiting"
    going = next(line for line in lines if line.startswith("going"))
    assert "whole@50" in going
    assert "1.50B of 2.00B" in going
    told = CliRunner().invoke(app, ["sweep-status", str(folder), "--json"])
    assert SweepStanding.model_validate(json.loads(told.output)) == sweep_standing(folder)

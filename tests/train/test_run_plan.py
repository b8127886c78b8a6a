"""`manta train --plan` says what a run takes, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from manta.config.errors import ConfigError
from manta.corpus.length_cost import LengthCost
from manta.elastic.checks.plan_run import show_run_plan
from manta.elastic.checks.preflight import Checked
from manta.model.trial_result import Tried
from manta.record.opening import take_up
from manta.record.run_state import RunState
from manta.show.console.remarks import PlannedRun
from manta.show.console.run_plan import plan_rows

Build = Callable[..., Checked]


@pytest.fixture
def planned(
    checked: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], dict[str, str]]:
    monkeypatch.setenv("COLUMNS", "400")

    def plan(changes: dict[str, Any]) -> dict[str, str]:
        capsys.readouterr()
        show_run_plan(checked(changes).config)
        lines = capsys.readouterr().out.splitlines()
        return {line[:14].strip(): line[14:].strip() for line in lines}

    return plan


def test_it_says_what_the_run_takes(planned: Any, checked: Build) -> None:
    speed = {"min": 2, "max": 4, "throughput": 16 * 7, "resources_per_worker": {"CPU": 1}}
    found = planned({"scaling": speed, "cost.per_device_hour": 300})
    assert found["Steps"] == "12, of 7 samples"
    assert found["Tokens"].startswith("1.34K, ")
    assert found["Workers"] == "2 to 4"
    assert found["Money"] == "1.00"
    assert found["Hours, money"] == "2 workers: 0.00167 h, 1.00"
    assert found["Run"].endswith("/test, new")
    assert "all trained" in found["Model"]
    assert not checked().run_dir.exists()


def test_frozen_weights_and_an_unknown_speed_are_said(planned: Any) -> None:
    found = planned({"model": {"type": "llama", "sizes": SIZES, "train": ["lm_head*"]}})
    assert found["Device-hours"].startswith("unknown: set scaling.throughput")
    assert "1.95K trained" in found["Model"]


def test_it_says_what_the_length_of_rows_costs(checked: Build) -> None:
    run = checked()
    costs = {
        "too_long": LengthCost(records=3, tokens=4000, supervised=1200),
        "cut": LengthCost(records=0, tokens=0, supervised=0),
    }
    manifest = run.manifest.model_copy(update={"sample": "chat", "length_cost": costs})
    tried = Tried(weights=1, trained=1, whole=True)
    plan = PlannedRun(run.config, manifest, run.schedule)
    said = [value for name, value in plan_rows(plan, "", tried, 0, None) if name == "Too long"]
    assert said == [
        "3 conversations longer than a row and left out: 4,000 tokens, 1,200 of them supervised"
    ]
    record = take_up(run.run_dir, None, run.config, manifest, 1, 1)
    assert RunState.model_validate_json(record.model_dump_json()).length_cost == costs


def test_what_stops_a_run_stops_its_plan(planned: Any) -> None:
    with pytest.raises(ConfigError, match=r"'\*nought\*' is the name of no parameter"):
        planned({"model": {"type": "llama", "sizes": SIZES, "train": ["*nought*"]}})


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}

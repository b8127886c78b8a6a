"""`manta tune`, interrupted in its second phase, goes on; what it leaves can be trained."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from command import copy_of_manta
from copied import Copied
from tiny_config import STEP, run_config, write_yaml

from manta.config import RunConfig, load
from manta.recommend.tuning_state import read_tuning
from manta.record.sweep_state import read_sweep

RATES = "[0.001, 0.004, 0.016, 0.064]"
DEADLINE = 300.0


def test_a_tuning_goes_on_where_it_stopped(tmp_path: Path, corpus: Path) -> None:
    base = run_config(
        tmp_path / "runs",
        corpus,
        schedule={"horizon": 80 * STEP, "lr": {"name": "wsd", "peak": 1e-2, "decay": "20%"}},
        scaling={"min": 1, "resources_per_worker": {"CPU": 0.5}},
        eval={"every": 80 * STEP, "tokens": 160},
        wandb={"mode": "disabled"},
    )
    path = write_yaml(tmp_path / "run.yaml", base)
    asked = [
        f"range.rates={RATES}",
        "range.tokens=50%",
        "range.seeds=[1]",
        "critical.sizes=[7, 14]",
    ]
    asked += ["critical.depths=[25%]", "critical.tokens=10%", "critical.seeds=[1]", "concurrent=2"]
    asked += ["confirm.seeds=[1, 2]", "critical.tolerance=9"]  # so that the larger batch is taken
    place = tmp_path / "runs" / "tiny-tuned"

    first = copy_of_manta("tune", str(path), *asked)
    said = _until_forks_train(first)
    assert "micro_batch 8 fits" in said
    os.killpg(first.pid, signal.SIGINT)
    assert first.communicate(timeout=DEADLINE)[0] is not None
    assert first.returncode == 130
    before = read_tuning(place)
    assert before is not None
    assert before.status == "interrupted"
    assert before.range is not None
    assert before.critical is None
    trained = read_sweep(place / "range")

    last = copy_of_manta("tune", str(path), *asked)
    output = last.communicate(timeout=DEADLINE)[0]
    assert last.returncode == 0, output
    found = read_tuning(place)
    assert found is not None
    assert (found.status, found.range) == ("finished", before.range)
    assert read_sweep(place / "range") == trained, "a phase that is over is not trained again"
    assert found.critical is not None
    depth = found.critical.at[0].depth
    assert found.critical.stairs == [(0, 7), (depth, 14)]
    assert found.confirm is not None
    assert "steps instead of" in found.confirm.verdict
    assert found.savings[0].tuned_hours > 0
    tuned = load(place / "tuned.yaml", RunConfig)
    assert tuned.schedule.model_dump(mode="json", by_alias=True)["batch"][1]["from"] == 14
    assert (place / "tune.html").read_text().count("<h2>") > 5
    other = copy_of_manta("tune", str(path), *asked, "range.tokens=40%")
    assert "this tuning was started with another 'range'" in other.communicate(timeout=DEADLINE)[0]


def _until_forks_train(process: Copied) -> str:
    """What the command said until a fork of its second phase trains."""
    said = ""
    for line in process.stdout:
        said += line
        if " trains from " in line and "batch 14" in line:
            return said
    raise AssertionError(said)

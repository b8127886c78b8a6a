"""A sweep that an older version was interrupted in goes on, and each trial comes to the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from kept import check_came_to, expected, unpack

from manta.config.sweep import load_sweep
from manta.record.sweep_state import read_sweep
from manta.tune.run_sweep import sweep
from manta.tune.sweep_plan import Outline


def test_a_sweep_of_an_older_version_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_local: None
) -> None:
    unpack("kept.tar.xz", tmp_path)
    monkeypatch.chdir(tmp_path)
    folder, then = Path("sweeps/tiny"), expected(tmp_path)
    before = {trial.name: trial for trial in read_sweep(folder).trials}
    assert {name: trial.status for name, trial in before.items()} == {
        "t000": "finished",
        "t001": "waiting",
        "t002": "waiting",
    }
    state, status = sweep(Outline(load_sweep("sweep.yaml")))
    assert status == "finished"
    for trial in state.trials:
        assert (trial.status, trial.digest) == ("finished", before[trial.name].digest)
        check_came_to(folder / trial.name, then["sweep"][trial.name], then["arithmetic"])
    assert state.tokens.trained == state.tokens.shared, "each stage is trained once"

"""The cases of benchmarks are made as the scripts that run them make them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_case_of_the_training_loops_has_a_name_and_overrides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from train_loop_case import MODELS, Case

    sizes = {"accumulate": 2, "world_size": 1, "threads": 1, "steps": 5, "corpus": "corpora/demo"}
    for model in MODELS:
        case = Case(model=model, precision="fp32", **sizes)  # type: ignore[arg-type]
        assert model in case.name
        assert Case(**json.loads(case.to_json())) == case
        assert any(one.startswith("schedule.horizon=") for one in case.overrides("/tmp"))

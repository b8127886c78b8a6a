"""Frozen weights are pages of their file, which processes on a node have in common."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from plain_runs import engine_of
from saved_models import saved_llama
from torch import nn

from manta.config.errors import RunError
from manta.elastic.checks.preflight import Checked
from manta.model.mapped_weights import may_share
from manta.train.engine import Engine

FILE = "model.safetensors"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved_llama(tmp_path / "base")


def shared(engine: Engine, base: Path) -> set[str]:
    """The weights that lie in pages of the base's file."""
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [
        [int(bound, 16) for bound in line[0].split("-")]
        for line in maps
        if line[-1] == str(base / FILE)
    ]
    return {
        name
        for name, weight in engine.trained.lm.named_parameters()
        if any(begin <= weight.data_ptr() < end for begin, end in spans)
    }


def names(engine: Engine, *, trained: bool) -> set[str]:
    found = engine.trained.lm.named_parameters()
    return {name for name, weight in found if weight.requires_grad == trained}


def test_what_is_frozen_is_held_once_a_node_and_what_is_trained_is_not(checked, base: Path) -> None:
    for model in ({"adapter": {"rank": 2}}, {"train": ["lm_head*"]}):
        engine = engine_of(with_model(checked, base, model))
        assert shared(engine, base) == names(engine, trained=False)
        assert names(engine, trained=True)
    whole = engine_of(with_model(checked, base, {}))
    assert not shared(whole, base)


def with_model(checked, base: Path, model: dict[str, object]) -> Checked:
    found: Checked = checked({"model": {"pretrained": str(base), **model}})
    return found


def test_a_file_that_is_written_to_stops_the_run_and_one_that_is_replaced_does_not(
    checked, base: Path
) -> None:
    run = with_model(checked, base, {"adapter": {"rank": 2}})
    engine = engine_of(run)
    engine.check_frozen()
    copy = Path(shutil.copy(base / FILE, base / "copy"))
    os.replace(copy, base / FILE)
    engine.check_frozen()
    engine = engine_of(run)
    content = (base / FILE).read_bytes()
    with (base / FILE).open("r+b") as file:
        file.write(content)
    with pytest.raises(RunError, match=r"model.safetensors: was written to .* restore the file"):
        engine.check_frozen()


def test_only_values_that_nobody_writes_to_may_be_shared() -> None:
    whole = torch.ones(3)
    assert may_share(nn.Parameter(torch.zeros(3), requires_grad=False), whole)
    assert not may_share(nn.Parameter(torch.zeros(3)), whole)
    assert not may_share(torch.zeros(3), whole)
    half = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16), requires_grad=False)
    assert not may_share(half, whole)

"""A run's record as tests of it open, start and read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from manta.config import RunConfig
from manta.corpus.manifest import Manifest
from manta.record.run_record import RunRecord
from manta.record.run_state import GroupStart

Open = Callable[..., RunRecord]


@pytest.fixture
def open_record(make_config: Callable[..., RunConfig], manifest: Manifest, clock: Any) -> Open:
    def open_(eval_sample: str = "", **sections: Any) -> RunRecord:
        return RunRecord.open(
            make_config(**sections),
            manifest,
            total_steps=100,
            total_tokens=1000,
            eval_sample=eval_sample,
            clock=clock,
        )

    return open_


def on_disk(record: RunRecord) -> dict[str, Any]:
    return dict(json.loads((record.run_dir / "run.json").read_text()))


def start(record: RunRecord, world_size: int, step: int, attempt: int = 0) -> None:
    record.group_started(
        GroupStart(world_size, attempt, step=step, tokens=step * 10, hardware={"gpu": "X"})
    )

"""What a driver passes on of its workers' messages, with a real mailbox between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tiny_config import STEP, run_config

from manta.config import RunConfig
from manta.elastic.checks.preflight import check
from manta.elastic.driver.follower import Follower
from manta.elastic.messages.events import GroupStarted
from manta.elastic.messages.mailbox import open_mailbox


class Heard:
    """A watcher that remembers what it is told, and asks for nothing."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []

    def metrics(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)

    def checkpoint(self, step: int) -> None:
        pass

    def wants_stop(self) -> bool:
        return False


def test_who_watches_hears_of_rows_that_only_a_checkpoint_has(
    ray_local: None, tmp_path: Path, make_corpus: Callable[..., Any]
) -> None:
    """A sweep's leg: else a trial that ended without its driver would have an old value."""
    make_corpus(tmp_path / "corpus", {"train": [[17] * 60]}, vocab_size=61)
    config = run_config(tmp_path, tmp_path / "corpus", wandb={"mode": "disabled"})
    checked = check(RunConfig.model_validate(config))
    rows = [
        {"step": 1, "tokens": STEP, "loss": 4.0},
        {"step": 1, "tokens": STEP, "val_loss": 3.5},
    ]
    started = GroupStarted(
        world_size=2,
        attempt=1,
        step=1,
        tokens=STEP,
        source="checkpoint",
        rows=rows,
        hardware={},
        seconds={},
    )
    heard = Heard()
    with open_mailbox(0) as mailbox:
        mailbox.put_rows.remote(1, len(rows), started)
        tracker = checked.tracker(console=False)
        Follower(tracker, heard).take_from(mailbox)
        tracker.finish("finished")
    assert heard.rows == rows
    written = (checked.run_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == rows

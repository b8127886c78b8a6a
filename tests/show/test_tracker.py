"""The tracker as its caller sees it; W&B is in `test_wandb`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from manta.config import RunConfig
from manta.config.errors import RunError
from manta.corpus.manifest import Manifest
from manta.record.run_state import GroupStart, read_state
from manta.show.tracker import Tracker
from manta.stream.ledger import Ledger, LedgerRow

Open = Callable[..., Tracker]


@pytest.fixture
def open_tracker(make_config: Callable[..., RunConfig], manifest: Manifest) -> Open:
    def open_(console: bool = False) -> Tracker:
        return Tracker.open(
            make_config(), manifest, total_steps=40, total_tokens=400, console=console
        )

    return open_


def rows(tracker: Tracker) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tracker.run_dir / "metrics.jsonl").open()]


def start(tracker: Tracker, world_size: int, step: int) -> None:
    tracker.group_started(
        GroupStart(
            world_size=world_size,
            attempt=tracker.attempts,
            step=step,
            tokens=step * 10,
            hardware={"gpu": "X"},
        )
    )


def test_a_run_from_beginning_to_end(open_tracker: Open, training_row: Any, capsys: Any) -> None:
    tracker = open_tracker(console=True)
    start(tracker, 2, 0)
    for step in range(1, 11):
        tracker.metrics(training_row(step))
    tracker.metrics({"step": 10, "tokens": 100, "val_loss": 0.4})
    tracker.checkpoint(step=10, tokens=100, path=f"{tracker.run_dir}/checkpoints/10", seconds=0.1)
    tracker.note("the corpus is small")
    tracker.group_ended(reason="done")
    tracker.finish("finished", reason="", final={"a": 1})
    tracker.finish("failed")  # Too late: it is finished.

    state = json.loads((tracker.run_dir / "run.json").read_text())
    assert state["status"] == "finished"
    assert state["final"] == {"a": 1}
    assert [event["message"] for event in state["events"]] == ["the corpus is small"]
    assert len(rows(tracker)) == 11
    assert set(training_row(1)) <= set(rows(tracker)[0])
    names = {path.name for path in tracker.run_dir.iterdir() if not path.name.startswith(".")}
    assert names == {"config.yaml", "run.json", "metrics.jsonl", "checkpoints", "report.html"}
    out = capsys.readouterr().out
    assert "the corpus is small" in out
    assert "10 of 40" in out


def test_a_driver_that_comes_back_goes_on_without_gap_or_repeat(
    open_tracker: Open, training_row: Any
) -> None:
    tracker = open_tracker()
    start(tracker, 2, 0)
    for step in range(1, 9):
        tracker.metrics(training_row(step))
    tracker._record.close()  # The driver is killed; its last rows did not reach the disk.
    path = tracker.run_dir / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-150])
    assert len(path.read_bytes().splitlines()) < 8

    again = open_tracker()
    assert again.attempts == 1
    again.backfill([training_row(step) for step in range(2, 11)])
    start(again, 1, 10)
    for step in range(11, 15):
        again.metrics(training_row(step))
    again.finish("finished")
    assert rows(again) == [training_row(step) for step in range(1, 15)]
    state = json.loads((again.run_dir / "run.json").read_text())
    assert [group["world_size"] for group in state["groups"]] == [2, 1]


def test_what_is_odd_about_a_run_is_kept_with_it_once(
    make_config: Callable[..., RunConfig], manifest: Manifest
) -> None:
    for _ in range(2):
        tracker = Tracker.open(
            make_config(),
            manifest,
            total_steps=40,
            total_tokens=400,
            console=False,
            remarks=["odd"],
        )
        tracker.finish("interrupted")
    assert [event.message for event in read_state(tracker.run_dir).events].count("odd") == 1


def test_the_directory_is_free_after_the_end(open_tracker: Open) -> None:
    tracker = open_tracker()
    with pytest.raises(RunError, match="another driver"):
        open_tracker()
    tracker.finish("interrupted")
    open_tracker().finish("finished")


def test_a_damaged_ledger_does_not_spoil_the_end(open_tracker: Open) -> None:
    tracker = open_tracker()
    ledger = tracker.run_dir / "ledger.parquet"
    ledger.mkdir()
    (ledger / "steps-000000000000001-000000000000002.parquet").write_bytes(b"no parquet")
    tracker.finish("finished")
    state = json.loads((tracker.run_dir / "run.json").read_text())
    assert state["status"] == "finished"
    assert state["ledger_digest"] is None


def test_importing_is_light() -> None:
    code = (
        "import sys, manta.show.tracker, manta.record.run_record;"
        "print(sorted({'ray', 'torch', 'wandb', 'plotly', 'pyarrow', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert result.stdout.strip() == "[]"


def test_a_rewind_and_the_skipped_steps_are_in_the_record(
    open_tracker: Open, training_row: Any
) -> None:
    tracker = open_tracker()
    start(tracker, 2, 0)
    for step in range(1, 6):
        tracker.metrics(training_row(step))
    tracker.group_ended(reason="going back")
    tracker.rewound(3)
    start(tracker, 2, 2)
    for step in (3, 4, 5):
        skipped = {"step": step, "tokens": step * 10, "skipped": True}
        tracker.metrics(skipped if step > 3 else training_row(step))
    ledger = Ledger(tracker.run_dir / "ledger.parquet")
    ledger.append([LedgerRow(k, k - 1, k - 1, k * 10, 2, 1, 0, k > 3) for k in range(1, 6)])
    tracker.finish("stopped")
    assert [row["step"] for row in rows(tracker)] == [1, 2, 3, 4, 5]
    assert [row.get("skipped", False) for row in rows(tracker)] == [False] * 3 + [True] * 2
    state = json.loads((tracker.run_dir / "run.json").read_text())
    assert state["results"]["skipped_steps"] == [4, 5]
    assert "after step 3 is void" in state["events"][0]["message"]
    assert "2: 4, 5" in (tracker.run_dir / "report.html").read_text()

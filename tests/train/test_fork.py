"""A fork goes on exactly as if it had been trained alone, and neither run disturbs the other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plain_runs import engine_of, ledger, loop_of, losses, streams_of
from tiny_config import STEP, run_config

from manta.config.errors import RunError
from manta.config.run import RunConfig
from manta.elastic.checks.preflight import Checked, check
from manta.record.run_record import RunRecord
from manta.record.run_state import read_fork
from manta.record.verify_run import verify
from manta.state.checkpoint_files import name_of, read_state, whole
from manta.train.fork import can_fork, fork

WSD = {"name": "wsd", "peak": 1e-2, "warmup": STEP}
RAMP = {"name": "ramp", "from": 7, "to": 9, "start": 6 * STEP, "over": STEP}
CHILDREN = {
    "decay": ({"lr": {**WSD, "decay": "50%"}}, 6),
    "ramp": ({"lr": {**WSD, "decay": "25%"}, "batch": RAMP}, 6),
    "longer": ({"lr": {**WSD, "decay": "10%"}, "horizon": 15 * STEP}, 6),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 30]}
    make_corpus(folder, texts, vocab_size=61)
    return folder


@pytest.fixture
def run(tmp_path: Path, corpus: Path) -> Callable[..., Checked]:
    """Builds a checked run of the engine, in this process."""

    def build(name: str, folder: str = "forked", **schedule: Any) -> Checked:
        config = run_config(
            tmp_path / folder,
            corpus,
            run={"name": name},
            schedule={"lr": {**WSD, "decay": "25%"}, **schedule},
            checkpoint={"at": [6 * STEP], "keep": 1},
            eval={"every": 4 * STEP, "tokens": 160},
            wandb={"mode": "disabled"},
        )
        return check(RunConfig.model_validate(config))

    return build


def train(checked: Checked) -> list[dict[str, Any]]:
    """Train to the end in this process; the history as the driver would have it on disk."""
    schedule = checked.schedule
    record = RunRecord.open(
        checked.config,
        checked.manifest,
        total_steps=schedule.steps,
        total_tokens=schedule.positions * schedule.seq_len,
    )
    told = checked.run_dir / "rows.jsonl"
    loop_of(checked, engine_of(checked), told).run(streams_of(checked))
    for line in told.read_text().splitlines():
        if "tokens" in (row := json.loads(line)):
            record.add(row)
    record.finish("finished", reason="", final={})
    record.close()
    return [json.loads(line) for line in (checked.run_dir / "metrics.jsonl").open()]


def curve(rows: list[dict[str, Any]]) -> list[tuple[int, float | None, float | None]]:
    return [(row["step"], row.get("loss"), row.get("val_loss")) for row in rows]


@pytest.mark.parametrize("child", CHILDREN)
def test_a_fork_equals_the_same_run_alone(run: Callable[..., Checked], child: str) -> None:
    schedule, step = CHILDREN[child]
    parent = run("parent")
    whole_parent = train(parent)
    forked, alone = run(child, **schedule), run(child, "alone", **schedule)
    fork(parent.run_dir, step, step * STEP, forked.run_dir)
    fork(parent.run_dir, step, step * STEP, forked.run_dir)  # harmless

    rows = train(forked)
    resumed = json.loads((forked.run_dir / "rows.jsonl").read_text().splitlines()[0])
    assert resumed["resumed"] == step, "it was not trained again"
    assert curve(rows) == curve(train(alone))
    assert losses(rows)[10] != losses(whole_parent)[10] or child == "longer"
    columns = ("step", "first_position", "last_position", "tokens", "digest")
    assert [[r[c] for c in columns] for r in ledger(forked)] == [
        [r[c] for c in columns] for r in ledger(alone)
    ]
    assert verify(forked.run_dir).lines()
    # The parent is as it was, whatever the child removed or cut.
    assert [read_state(path).step for path in whole(parent.run_dir / "checkpoints")] == [6, 12]
    assert [row["step"] for row in ledger(parent)] == list(range(1, 13))


def test_the_record_knows_where_the_beginning_came_from(run: Callable[..., Checked]) -> None:
    parent = run("parent")
    train(parent)
    child = run("decay", lr={**WSD, "decay": "50%"})
    fork(parent.run_dir, 6, 6 * STEP, child.run_dir)
    record = RunRecord.open(child.config, child.manifest, total_steps=12, total_tokens=12 * STEP)
    state = record.state
    record.close()
    assert state.fork is not None
    assert (state.fork.run, state.fork.step, state.fork.tokens) == ("parent", 6, 6 * STEP)
    assert (state.totals.steps, state.totals.tokens) == (6, 6 * STEP)
    assert state.totals.device_seconds == 0
    assert state.results.best_val_step in (0, 4)
    assert state.results.loss is not None


def test_a_change_of_rows_is_told_of_a_fork(run: Callable[..., Checked]) -> None:
    """Whether they were changed before it was made, or before it was first trained."""

    def change(of: Path) -> None:
        rows = of / "metrics.jsonl"
        value = re.search(rb'"grad_norm": \d.(\d)', rows.read_bytes())
        assert value is not None
        content = bytearray(rows.read_bytes())
        content[value.start(1)] ^= 1
        rows.write_bytes(content)

    parent = run("parent")
    train(parent)
    before, after = run("before", lr={**WSD, "decay": "50%"}), run("after")
    fork(parent.run_dir, 6, 6 * STEP, after.run_dir)
    change(parent.run_dir)
    fork(parent.run_dir, 6, 6 * STEP, before.run_dir)
    change(after.run_dir)
    train(before)
    assert "rows up to step 6: the file was changed" in "\n".join(verify(before.run_dir).lines())
    train(after)
    with pytest.raises(RunError, match=r"metrics\.jsonl was changed after it was written"):
        verify(after.run_dir)


def test_a_fork_of_a_fork_knows_all_that_trained_its_beginning(
    run: Callable[..., Checked],
) -> None:
    parent = run("parent")
    train(parent)
    child = run("ramp", lr={**WSD, "decay": "25%"}, batch=RAMP)
    fork(parent.run_dir, 6, 6 * STEP, child.run_dir)
    train(child)
    last = max(read_state(path).step for path in whole(child.run_dir / "checkpoints"))
    grandchild = child.run_dir.with_name("grandchild")
    fork(child.run_dir, last, 1000, grandchild)
    found = read_fork(grandchild)
    assert found is not None
    assert [(one.run, one.step, one.before) for one in found.before] == [("parent", 6, [])]
    assert (found.run, found.step, found.tokens) == ("ramp", last, 1000)


def test_only_a_whole_checkpoint_can_be_forked(run: Callable[..., Checked]) -> None:
    parent = run("parent")
    train(parent)
    child = parent.run_dir.with_name("child")
    with pytest.raises(RunError, match="no whole checkpoint to fork from"):
        fork(parent.run_dir, 7, 7 * STEP, child)
    (parent.run_dir / "checkpoints" / name_of(6) / ".metadata").unlink()
    assert not can_fork(parent.run_dir, 6)
    with pytest.raises(RunError, match="step-000000000006"):
        fork(parent.run_dir, 6, 6 * STEP, child)
    assert not child.exists()

"""Rows that are read one step late: the same rows, and no step waits for its own values."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from file_vault import FileVault
from plain_runs import Fault, engine_of, ledger, loop_of, memory_of, run_ranks, streams_of
from torch import Tensor
from torch.overrides import TorchFunctionMode

from manta.config.errors import DivergedError
from manta.elastic.checks.preflight import Checked
from manta.model import cross_entropy
from manta.state.checkpoint_files import read_state, whole
from manta.storage.run_folder import CHECKPOINTS
from manta.train.arriving import Arriving
from manta.train.pause import Pause

STEP = 16 * 7
# Steps that only log, and others that also save, evaluate or take a snapshot; two bad ones.
BUSY = {
    "schedule.horizon": STEP * 20,
    "checkpoint": {"every": 7 * STEP, "keep": 9, "snapshot_every": 5},
    "eval": {"every": 9 * STEP, "tokens": 160},
    "guards": {"nonfinite": "skip", "window": 12},
}
BAD = Fault((4, 10), float("nan"))

# What a row has of the gradient of first passes, in steps of several.
BY_PASS = ("grad_norm_pass", "pass_samples")


def trained(
    run: Checked,
    *,
    late: bool,
    attempt: int = 1,
    die_after: int | None = None,
    fault: Fault | None = BAD,
) -> None:
    """Train in this process, looking at each step's values at once, or late as on a GPU."""
    run.run_dir.mkdir(parents=True, exist_ok=True)
    engine = engine_of(run, empty=True)
    if fault is not None:
        fault(engine)
    vault = FileVault(memory_of(run), engine.ranks.rank)
    loop = loop_of(run, engine, run.run_dir / "rows.jsonl", attempt, vault)
    loop._looks_each_step = not late
    loop.run(streams_of(run, engine.ranks.rank, engine.ranks.world_size, die_after))


def train_rank(run: Checked, attempt: int, die_after: int | None) -> None:
    trained(run, late=True, attempt=attempt, die_after=die_after)


def told(run: Checked) -> list[dict[str, Any]]:
    """What was told, in its order, without what is measured in time."""
    rows = [json.loads(line) for line in (run.run_dir / "rows.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "time_" not in k and "per_s" not in k} for row in rows]


def history(run: Checked) -> list[dict[str, Any]]:
    """The rows of training and evaluation as a tracker keeps them: each once, the first told."""
    kept: dict[tuple[int, bool], dict[str, Any]] = {}
    for row in told(run):
        if "step" in row:
            kept.setdefault((row["step"], "val_loss" in row), row)
    return list(kept.values())


def states(run: Checked) -> list[Any]:
    return [read_state(path) for path in whole(run.run_dir / CHECKPOINTS)]


def samples(run: Checked) -> list[tuple[int, int, bool]]:
    return [(row["step"], row["digest"], row["skipped"]) for row in ledger(run)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As ranks have: runs in this process are compared with theirs to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def at_once(checked_module) -> Checked:
    run = checked_module({**BUSY, "run.name": "at-once"})
    trained(run, late=False)
    assert [row["step"] for row in told(run) if row.get("skipped")] == [4, 10]
    return run


def test_late_rows_are_the_same_in_the_same_order(checked, at_once) -> None:
    run = checked({**BUSY, "run.name": "late"})
    trained(run, late=True)
    assert told(run) == told(at_once)
    assert states(run) == states(at_once)
    assert samples(run) == samples(at_once)


def test_two_ranks_tell_the_same_rows_late(checked, at_once) -> None:
    run = checked({**BUSY, "run.name": "two"})
    run_ranks(2, train_rank, run, 1, None)
    for row, other in zip(history(run), history(at_once), strict=True):
        assert row.pop("world_size", 0) == 2 * other.get("world_size", 0)
        # Each of two ranks has one pass a step, and a lone one has two.
        alike = {k: v for k, v in other.items() if k not in ("world_size", *BY_PASS)}
        assert row == pytest.approx(alike, rel=1e-5)
    assert samples(run) == samples(at_once)


# Step 10 takes a snapshot and step 14 saves: what they keep, they have read.
@pytest.mark.parametrize(("die_after", "unread"), [(4, 1), (8, 1), (10, 0), (14, 0), (17, 1)])
def test_killed_with_a_row_unread_the_run_goes_on_to_the_bit(
    checked, at_once, die_after: int, unread: int
) -> None:
    run = checked({**BUSY, "run.name": "killed"})
    with pytest.raises(mp.ProcessExitedException):
        run_ranks(1, train_rank, run, 1, die_after)
    before = [row["step"] for row in told(run) if "lr" in row]
    assert max(before) == die_after - unread
    run_ranks(1, train_rank, run, 2, None)
    assert history(run) == history(at_once)
    assert states(run)[-1] == states(at_once)[-1]
    assert samples(run) == samples(at_once)


def test_a_bad_step_that_stops_the_run_has_no_row_and_no_checkpoint(checked) -> None:
    keys = {"guards": {}, "checkpoint": {"every": STEP, "keep": 30}, "log.every": 0}
    for name, every in (("each", 1), ("third", 3)):
        run = checked({**BUSY, **keys, "checkpoint.every": every * STEP, "run.name": name})
        with pytest.raises(DivergedError, match=r"^step 8: loss or gradient is not finite"):
            trained(run, late=True, fault=Fault((8,), float("nan")))
        assert max(row["step"] for row in told(run) if "step" in row) == 7
        assert max(state.step for state in states(run)) == (7 if every == 1 else 6)


def test_a_pause_leaves_no_row_unread(checked) -> None:
    run = checked({"schedule.horizon": STEP * 20})
    run.run_dir.mkdir(parents=True)
    engine = engine_of(run)
    loop = loop_of(run, engine, run.run_dir / "rows.jsonl")
    loop._looks_each_step = False

    def streams(cursor: int) -> Any:
        for batch in streams_of(run)(cursor):
            if batch.step.number == 5:
                engine.pause.ask(Pause.STOP)
            yield batch

    assert loop.run(streams) == "paused"
    assert [row["step"] for row in told(run) if "loss" in row] == [1, 2, 3, 4, 5]
    assert [state.step for state in states(run)] == [5]


class Reads(TorchFunctionMode):
    """Notes, by step, what the host asks tensors for: for each it would wait for a GPU."""

    VALUES = (
        *(Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__array__, Tensor.nonzero),
        *(Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__),
    )

    def __init__(self) -> None:
        super().__init__()
        self.step, self.found = 0, Counter[int]()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        self.found[self.step] += function in self.VALUES
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"guards": {"spike": "skip"}}], ids=["plain", "spikes"])
@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_logs_waits_for_none_of_its_values(
    checked, monkeypatch, tmp_path: Path, late: bool, changes: dict[str, Any]
) -> None:
    run = checked({"schedule.horizon": STEP * 12, "checkpoint.every": 8 * STEP, **changes})
    run.run_dir.mkdir(parents=True)
    loop = loop_of(run, engine_of(run), run.run_dir / "rows.jsonl")
    loop._looks_each_step = not late
    reads, ages = Reads(), Counter[tuple[int, int]]()
    make, read, advance = Arriving.__init__, Arriving.read, loop._advance

    def made(self: Arriving, values: Tensor) -> None:
        make(self, values)
        self.made_in = reads.step  # type: ignore[attr-defined]

    def awaited(self: Arriving) -> list[Any]:
        before = reads.found[reads.step]
        values = read(self)
        reads.found[reads.step] = before  # by its age instead
        ages[reads.step, reads.step - self.made_in] += 1  # type: ignore[attr-defined]
        return values

    def advancing(batch: Any) -> None:
        reads.step = batch.step.number
        with reads:
            advance(batch)

    monkeypatch.setattr(Arriving, "__init__", made)
    monkeypatch.setattr(Arriving, "read", awaited)
    monkeypatch.setattr(loop, "_advance", advancing)
    loop._agreement._lag = 2  # votes are read late on a GPU, which tests/train/test_pause.py shows
    # Only a CPU counts the labels, to leave out the logits of the others.
    monkeypatch.setattr(cross_entropy, "rows_that_count", lambda labels: None)
    loop.run(streams_of(run))
    only_log = [step for step in range(2, 12) if step != 8]
    own = {step: ages[step, 0] for step in only_log}
    assert {step: reads.found[step] for step in only_log} == dict.fromkeys(only_log, 0)
    assert own == dict.fromkeys(only_log, 0 if late else 2)  # judgements and row
    if late:
        # Of the step before, unless that one waited itself; and votes of two steps before.
        assert {s: ages[s, 1] for s in only_log} == {s: 0 if s in (2, 9) else 2 for s in only_log}
    assert [row["step"] for row in told(run) if "loss" in row] == list(range(1, 13))

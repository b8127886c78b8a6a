"""Faults of processes and nodes: the run goes on, with the same samples and the same losses."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_config import BATCH, SEQ_LEN, STEP

from manta.record.verify_run import verify

SLOW = {"kind": "slow", "attempt": None}
# From nearly all short documents to nearly none.
CURRICULUM = {
    "sources": {
        "short": {"weight": [{"from": 9, "until": "40%"}, {"shape": "linear", "to": 1}]},
        "even": {"weight": [{"from": 1, "until": "40%"}, {"shape": "linear", "to": 9}]},
    }
}
SNAPSHOTS = {"snapshot_every": 4}
DIED = "its process died"


def hold(step: int, until: str, attempt: int | None = None) -> dict[str, Any]:
    """A fault: the workers of a group, or of each, stand before a step until a file is there."""
    return {"kind": "hold", "step": step, "until": until, "attempt": attempt}


def assert_exact(run: Any) -> None:
    """Ledger, config and corpus agree, and the run is at its end."""
    assert verify(run.dir).consumed.steps == run.record()["total_steps"]


def test_who_outlives_a_worker_goes_on_at_the_step_it_is_at(nodes, run, undisturbed) -> None:
    """Workers die in the middle of a step, of a start, of a snapshot and of a checkpoint."""
    nodes.have(2)
    faults = [
        {"kind": "kill", "rank": 1, "step": 6, "attempt": 1},
        {"kind": "kill", "rank": 0, "at": "start", "attempt": 2},
        {"kind": "kill", "rank": 0, "at": "snapshot", "step": 12, "attempt": 3},
        {"kind": "kill", "rank": 0, "at": "checkpoint", "step": 20, "attempt": 4},
    ]
    disturbed = run(SLOW, *faults, checkpoint={**SNAPSHOTS, "every": 20 * STEP}).begin().end()
    assert [group["attempt"] for group in disturbed.record()["groups"]] == [1, 3, 4, 5]
    assert disturbed.reasons() == [f"worker {rank}: {DIED}" for rank in (1, 0, 0)]
    first, second, third = disturbed.starts()
    assert first == ("survivors", 5)
    assert second == ("survivors", 12)
    assert third == ("survivors", 20)
    assert disturbed.again() == [0, 0, 0]
    assert 20 in disturbed.checkpoints(), "one whose writing was broken off is written again"
    assert disturbed.losses() == undisturbed(2)
    assert_exact(disturbed)


def test_killed_groups_go_on_from_the_last_snapshot(nodes, run, undisturbed) -> None:
    """All workers die, in a snapshot, and in the middle of a step."""
    nodes.have(2)
    faults = [
        # On a busy machine a snapshot takes its time to be whole, and the next one waits for it.
        {"kind": "slow", "seconds": 2.0, "step": 11, "attempt": 1},
        {"kind": "kill", "rank": 0, "at": "snapshot", "step": 12, "attempt": 1},
        {"kind": "kill", "rank": 1, "step": 13, "attempt": 1},
        {"kind": "slow", "seconds": 2.0, "step": 30, "attempt": 2},
        {"kind": "kill", "rank": None, "step": 31, "attempt": 2},
    ]
    disturbed = run(SLOW, *faults, checkpoint={**SNAPSHOTS, "every": 20 * STEP}).begin().end()
    assert all(reason.endswith(DIED) for reason in disturbed.reasons())
    first, last = disturbed.starts()
    assert first == ("snapshot", 8), "the one before the half-written one"
    assert last[0] == "snapshot"
    assert all(steps <= SNAPSHOTS["snapshot_every"] for steps in disturbed.again())
    assert disturbed.losses() == undisturbed(2)
    assert_exact(disturbed)


def test_without_snapshots_they_go_on_from_the_last_checkpoint(nodes, run, undisturbed) -> None:
    nodes.have(2)
    faults = [
        {"kind": "kill", "rank": None, "step": 15},
        {"kind": "kill", "rank": None, "at": "checkpoint", "step": 20, "attempt": 2},
    ]
    disturbed = run(SLOW, *faults, checkpoint={"snapshot_every": 0}).begin().end()
    assert all(reason.endswith(DIED) for reason in disturbed.reasons())
    first, second = disturbed.starts()
    assert first == ("checkpoint", 10)
    assert second in [("checkpoint", 10), ("checkpoint", 20)]
    assert disturbed.losses() == undisturbed(2)
    assert_exact(disturbed)


def test_out_of_memory_halves_the_micro_batch_and_a_worker_that_hangs_evaluating_is_replaced(
    nodes, run, undisturbed
) -> None:
    nodes.have(2)
    faults = [
        {"kind": "out_of_memory", "rank": 1, "step": 3},
        {"kind": "hang", "rank": 1, "at": "evaluation", "step": 15, "attempt": 2},
    ]
    evaluations = {"every": 15 * STEP, "tokens": 20 * SEQ_LEN}
    disturbed = run(*faults, scaling={"hang_timeout": 3}, eval=evaluations).begin().end()
    assert "train.micro_batch is halved from 4 to 2" in disturbed.notes()
    assert "stall" in [alert["kind"] for alert in disturbed.record()["alerts"]]
    assert "not answered" in disturbed.reasons()[1] or "hangs" in disturbed.reasons()[1]
    assert disturbed.losses() == pytest.approx(undisturbed(2), rel=1e-5)
    assert_exact(disturbed)


def test_sizes_1_3_2_1_with_a_batch_of_7_on_a_curriculum(nodes, run, undisturbed) -> None:
    """Groups that are to grow stand until they are told to, the others while a node dies."""
    nodes.have(1)
    growing = {"min": 1, "max": 3, "spares": 1, "throughput": 1}
    stand = [hold(2, "go-1", 1), hold(6, "go-2", 2), hold(20, "three"), hold(34, "two")]
    data = {"mixture": CURRICULUM}
    sections = {"scaling": growing, "checkpoint": SNAPSHOTS, "data": data}
    disturbed = run(*stand, steps=50, pooled=False, **sections).begin()
    disturbed.groups_reach(1)
    nodes.add()
    nodes.add()
    while disturbed.record()["groups"][-1]["world_size"] < 3:
        count = len(disturbed.record()["groups"])
        disturbed.is_told("growing from", count)
        (disturbed.dir / f"go-{count}").touch()
        disturbed.groups_reach(count + 1)
    grown = len(disturbed.record()["groups"])
    (disturbed.dir / "go-2").touch()
    for number, size in enumerate(("three", "two"), 1):
        disturbed.reach(19 if size == "three" else 33)  # with a snapshot to go on from
        nodes.kill()
        disturbed.groups_reach(grown + number)
        (disturbed.dir / size).touch()
    disturbed.end()
    sizes = [group["world_size"] for group in disturbed.record()["groups"]]
    assert sizes in ([1, 3, 2, 1], [1, 2, 3, 2, 1])
    assert set(disturbed.sizes().values()) == {1, 2, 3}
    assert disturbed.losses() == pytest.approx(undisturbed(1, 50, data), rel=1e-5)
    assert_exact(disturbed)
    by_source = verify(disturbed.dir).consumed.by_source
    last = disturbed.rows()[-1]
    assert by_source == {name: last[f"tokens/{name}"] // SEQ_LEN for name in ("short", "even")}
    assert sum(by_source.values()) == 50 * BATCH


def test_a_drained_node_is_left_before_it_goes(nodes, run, undisturbed) -> None:
    nodes.have(2)
    disturbed = run(hold(12, "told", 1), steps=30, scaling={"min": 1, "max": 2}).begin()
    disturbed.reach(11)
    nodes.drain(30)
    disturbed.is_told("will go away in")
    (disturbed.dir / "told").touch()
    disturbed.end()
    first, second = disturbed.record()["groups"]
    assert second["step"] == first["last_step"], "nothing is trained twice"
    assert (first["world_size"], second["world_size"]) == (2, 1)
    assert disturbed.losses() == pytest.approx(undisturbed(2, 30), rel=1e-5)
    assert_exact(disturbed)


def test_a_step_that_is_no_number_is_gone_back_behind(nodes, run, undisturbed) -> None:
    nodes.have(2)
    guards = {"nonfinite": "rewind", "rewind": 1}
    every = {"every": 3 * STEP, "keep": 4}
    bad = {"kind": "nan", "rank": 1, "step": 9}
    disturbed = run(bad, steps=14, guards=guards, checkpoint=every).begin().end()
    assert "step 9: loss or gradient is not finite" in disturbed.notes()
    assert len(disturbed.record()["groups"]) == 2
    alerts = disturbed.record()["alerts"]
    assert [(one["kind"], one["cause"]) for one in alerts] == [("bad_step", "step 9")]
    assert verify(disturbed.dir).consumed.skipped == [8, 9]
    assert disturbed.record()["skips"] == [[8, 9]]
    rows = disturbed.rows()
    assert [row["step"] for row in rows] == list(range(1, 15))
    assert [row["step"] for row in rows if row.get("skipped")] == [8, 9]
    same = undisturbed(2, 8)
    assert all(row["loss"] == same[row["step"]] for row in rows[:7])
    assert_exact(disturbed)


def test_a_run_waits_for_room(nodes, run, driver, undisturbed) -> None:
    nodes.have(1)
    gpus = {"resources_per_worker": {"CPU": 1, "GPU": 1}}  # as nodes here say that they have one
    waiting = run(steps=12, scaling=gpus).begin()
    driver.hear("waiting for 2 workers of 1 CPU, 1 GPU each: there is room for 1")
    nodes.add()
    waiting.end()
    assert waiting.record()["groups"][0]["devices"] == 2
    assert [group["world_size"] for group in waiting.record()["groups"]] == [2]
    assert waiting.losses() == pytest.approx(undisturbed(2, 12))

"""Faults of processes and nodes: the run goes on, with the same samples and the same losses."""

from __future__ import annotations

from typing import Any

import pytest

from manta.config import RunConfig
from manta.elastic.preflight import absolute, check
from manta.stream.ledger import digest
from manta.stream.plan import order_of

SLOW = {"kind": "slow", "attempt": None}


def assert_exact(run: Any) -> None:
    """The ledger is what config and corpus say, and has each step once."""
    checked = check(absolute(RunConfig.model_validate(run.config)))
    order = order_of(checked.corpus)
    expected = [checked.schedule.step(k) for k in range(checked.schedule.steps)]
    rows = run.ledger()
    assert [row["step"] for row in rows] == [step.number for step in expected]
    for row, step in zip(rows, expected, strict=True):
        end = step.first_position + step.batch_size
        assert (row["first_position"], row["last_position"]) == (step.first_position, end - 1)
        assert row["digest"] == digest(order.ids(step.first_position, end))


@pytest.mark.parametrize(
    "ranks", [[1], [0], [None]], ids=["another rank", "the first rank", "all ranks"]
)
def test_killed_workers(nodes, run, undisturbed, ranks) -> None:
    nodes.have(2)
    faults = [{"kind": "kill", "rank": rank, "step": 15} for rank in ranks]
    disturbed = run(*faults).begin().end()
    assert disturbed.reasons() == [f"worker {ranks[0] or 0}: its process died"]
    assert disturbed.record()["groups"][1]["step"] == 10
    assert disturbed.losses() == undisturbed(2)
    assert_exact(disturbed)


def test_killed_while_recovering_from_a_kill(nodes, run, undisturbed) -> None:
    nodes.have(2)
    faults = [
        {"kind": "kill", "rank": 1, "step": 15},
        {"kind": "kill", "rank": 0, "at": "start", "attempt": 2},
    ]
    disturbed = run(*faults).begin().end()
    assert disturbed.record()["groups"][-1]["attempt"] == 3
    assert disturbed.losses() == undisturbed(2)
    assert_exact(disturbed)


def test_killed_in_the_middle_of_a_checkpoint(nodes, run, undisturbed) -> None:
    nodes.have(2)
    disturbed = run({"kind": "kill", "rank": 0, "at": "checkpoint", "step": 20}).begin().end()
    assert disturbed.reasons() == ["worker 0: its process died"]
    assert disturbed.record()["groups"][1]["step"] in (10, 20)
    assert disturbed.losses() == undisturbed(2)
    assert_exact(disturbed)


def test_a_hanging_worker_is_replaced(nodes, run, undisturbed) -> None:
    nodes.have(2)
    fault = {"kind": "hang", "rank": 1, "step": 15}
    disturbed = run(fault, scaling={"hang_timeout": 3}).begin().end()
    assert "not answered" in disturbed.reasons()[0] or "hangs" in disturbed.reasons()[0]
    assert disturbed.losses() == undisturbed(2)
    assert_exact(disturbed)


def test_out_of_memory_halves_the_micro_batch(nodes, run, undisturbed) -> None:
    nodes.have(2)
    disturbed = run({"kind": "out_of_memory", "rank": 1, "step": 3}).begin().end()
    assert "train.micro_batch is halved from 4 to 2" in disturbed.notes()
    assert disturbed.losses() == pytest.approx(undisturbed(2), rel=1e-5)
    assert_exact(disturbed)


def test_sizes_1_3_2_1_with_a_batch_of_7(nodes, run, undisturbed) -> None:
    nodes.have(1)
    disturbed = run(SLOW, steps=400, scaling={"min": 1, "max": 3, "spares": 1}).begin()
    disturbed.reach(10)
    nodes.add()
    nodes.add()
    disturbed.groups_reach(2)
    while disturbed.record()["groups"][-1]["world_size"] < 3:
        disturbed.groups_reach(len(disturbed.record()["groups"]) + 1)
    grown = disturbed.record()["groups"]
    disturbed.reach(grown[-1]["step"] + 5)
    nodes.kill()
    disturbed.groups_reach(len(grown) + 1)
    disturbed.reach(disturbed.record()["groups"][-1]["step"] + 25)
    nodes.kill()
    disturbed.end()
    sizes = [group["world_size"] for group in disturbed.record()["groups"]]
    assert sizes in ([1, 3, 2, 1], [1, 2, 3, 2, 1])
    assert "growing from 1 to" in disturbed.notes()
    assert set(disturbed.sizes().values()) == {1, 2, 3}
    assert disturbed.losses() == pytest.approx(undisturbed(1, 400), rel=1e-5)
    assert_exact(disturbed)


def test_a_drained_node_is_left_before_it_goes(nodes, run, undisturbed) -> None:
    nodes.have(2)
    disturbed = run(SLOW, steps=100, scaling={"min": 1, "max": 2}).begin()
    disturbed.reach(10)
    nodes.drain(30)
    disturbed.end()
    first, second = disturbed.record()["groups"]
    assert "goes away in" in disturbed.notes()
    assert second["step"] == first["last_step"], "nothing is trained twice"
    assert (first["world_size"], second["world_size"]) == (2, 1)
    assert disturbed.losses() == pytest.approx(undisturbed(2, 100), rel=1e-5)
    assert_exact(disturbed)


def test_a_killed_driver_and_the_same_config_again(nodes, run, driver, undisturbed) -> None:
    nodes.have(2)
    disturbed = run(SLOW, steps=100).begin()
    disturbed.reach(35)
    driver.kill()
    assert disturbed.record()["status"] == "running"
    disturbed.begin().end()
    assert disturbed.record()["drivers"] == 2
    assert disturbed.losses() == undisturbed(2, 100)
    assert_exact(disturbed)

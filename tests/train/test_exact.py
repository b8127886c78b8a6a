"""The loss curve does not depend on how the work is laid out, nor on interruptions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from plain_runs import ledger, losses, train

from manta.elastic.checks.preflight import Checked
from manta.state.checkpoint_files import newest, read_state
from manta.storage.run_folder import CHECKPOINTS

# What "the same curve" means at another world size, micro-batch or layout, in fp32: the
# order of float additions differs and nothing else.
REL = 1e-5

Build = Callable[..., Checked]


def same_curve(one: dict[int, float], other: dict[int, float]) -> bool:
    """Whether two loss curves agree in every step to within float addition order."""
    return one.keys() == other.keys() and all(
        one[step] == pytest.approx(other[step], rel=REL) for step in one
    )


def digests(checked: Checked) -> list[tuple[int, int, int]]:
    """What the ledger proves of each step, without the world size."""
    return [(row["step"], row["first_position"], row["digest"]) for row in ledger(checked)]


def newest_checkpoint(run: Checked) -> int:
    """The step of the newest checkpoint that was whole when the ranks were killed.

    Saving goes on beside training, so which one that is depends on how fast each was; the
    first is whole before the second begins. Its own word came after it, or not at all.
    """
    return read_state(newest(run.run_dir / CHECKPOINTS)).step


@pytest.fixture(scope="module")
def alone(checked_module: Build) -> tuple[dict[int, float], list[tuple[int, int, int]]]:
    """The curve and ledger of one rank with the whole batch at once."""
    run = checked_module({"run.name": "alone"})
    curve = losses(train(run))
    assert len(curve) == run.schedule.steps == 12
    return curve, digests(run)


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_world_size_gives_the_same_curve_and_samples(checked, alone, world_size) -> None:
    run = checked()
    curve = losses(train(run, world_size))
    assert same_curve(curve, alone[0])
    assert digests(run) == alone[1]
    assert {row["world_size"] for row in ledger(run)} == {world_size}


def test_ranks_without_rows_join_in(checked) -> None:
    changes = {"schedule.batch": 2, "schedule.horizon": 16 * 2 * 4}
    one, three = checked({**changes, "run.name": "one"}), checked({**changes, "run.name": "three"})
    assert same_curve(losses(train(one)), losses(train(three, 3)))


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_micro_batch_does_not_change_the_curve(checked, alone, micro_batch) -> None:
    assert same_curve(losses(train(checked({"train.micro_batch": micro_batch}))), alone[0])


@pytest.mark.parametrize("changes", [{}, {"data.document_mask": True}], ids=["plain", "masked"])
def test_uneven_valid_tokens_are_weighted_by_token(checked, changes) -> None:
    """With masked documents, shares hold unequal counts of labels: no mean of means."""
    one = checked({**changes, "run.name": "one"})
    two = checked({**changes, "run.name": "two", "train.micro_batch": 1})
    assert same_curve(losses(train(one)), losses(train(two, 2)))


def test_the_same_world_size_is_bitwise_the_same(checked) -> None:
    runs = [checked({"run.name": name}) for name in ("a", "b")]
    curves = [losses(train(run, 2)) for run in runs]
    assert curves[0] == curves[1]


def test_killed_and_resumed_is_bitwise_the_same(checked, alone) -> None:
    run = checked({"checkpoint.every": 16 * 7 * 3})
    first = train(run, die_after=8)
    assert max(losses(first)) == 8
    kept = newest_checkpoint(run)
    rows = train(run, attempt=2)
    assert rows[len(first)]["resumed"] == kept
    assert losses(rows) == alone[0]
    assert digests(run) == alone[1]
    assert [row["attempt"] for row in ledger(run)] == [1] * kept + [2] * (12 - kept)


def test_resumed_at_other_world_sizes_is_the_same_curve(checked, alone) -> None:
    run = checked({"checkpoint.every": 16 * 7 * 2})
    train(run, 1, die_after=5)
    one = newest_checkpoint(run)
    train(run, 3, die_after=9, attempt=2)
    three = newest_checkpoint(run)
    assert one < three
    rows = train(run, 2, attempt=3)
    # Steps behind a checkpoint were trained twice, at two world sizes: the last time counts.
    curve = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert same_curve(curve, alone[0])
    assert digests(run) == alone[1]
    sizes = [row["world_size"] for row in ledger(run)]
    assert sizes == [1] * one + [3] * (three - one) + [2] * (12 - three)


def test_a_sharded_model_has_the_same_curve_and_checkpoints(checked, alone) -> None:
    """FSDP2 over two ranks; its checkpoint goes on in one rank without sharding."""
    run = checked({"parallel.shard": True, "checkpoint.every": 16 * 7 * 3, "train.micro_batch": 2})
    first = train(run, 2, die_after=9)
    kept = newest_checkpoint(run)
    rows = train(run, 1, attempt=2)
    assert rows[len(first)]["resumed"] == kept
    curve = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert same_curve(curve, alone[0])
    assert digests(run) == alone[1]

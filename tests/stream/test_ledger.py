"""What the ledger proves, and that no crash makes it prove anything else."""

import os
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.config.errors import RunError
from manta.stream import ledger as module
from manta.stream.ledger import SCHEMA, Ledger, LedgerRow, digest

IDS = st.lists(st.integers(0, 2**62), max_size=50)
BATCH = 4


def rows(first, last, **changes):
    """Rows of the steps [first, last) of a run with batches of four."""
    return [
        LedgerRow(
            step=step,
            first_position=step * BATCH,
            last_position=step * BATCH + BATCH - 1,
            tokens=(step + 1) * BATCH * 100,
            world_size=changes.get("world_size", 2),
            attempt=changes.get("attempt", 0),
            digest=digest(np.arange(step * BATCH, (step + 1) * BATCH)),
        )
        for step in range(first, last)
    ]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "ledger.parquet"


def ledger_of(folder, *ends):
    """A ledger of steps from 0, cut into parts at `ends`."""
    ledger = Ledger(folder)
    for first, last in pairwise((0, *ends)):
        ledger.append(rows(first, last))
    return ledger


def steps(table):
    return table["step"].to_pylist()


# The digest of one batch.


@given(IDS, st.randoms())
def test_the_digest_does_not_depend_on_order(ids, random):
    shuffled = random.sample(ids, len(ids))
    assert digest(np.array(ids, dtype=np.int64)) == digest(np.array(shuffled, dtype=np.int64))


@given(IDS, st.integers(1, 8))
def test_digests_of_ranks_add_up(ids, ranks):
    ids = np.array(ids, dtype=np.int64)
    parts = [digest(ids[rank::ranks]) for rank in range(ranks)]
    assert sum(parts) % 2**64 == digest(ids)


@given(IDS, st.integers(0, 2**62))
def test_the_digest_counts_repetitions(ids, extra):
    once, twice = [np.array([*ids, *[extra] * n], dtype=np.int64) for n in (1, 2)]
    none = np.array(ids, dtype=np.int64)
    assert len({digest(none), digest(once), digest(twice)}) == 3


def test_the_digest_sees_an_exchanged_id():
    ids = np.arange(1000)
    digests = {digest(np.where(ids == at, 1000 + at, ids)) for at in range(1000)}
    assert len(digests) == 1000
    assert digest(np.array([1, 4])) != digest(np.array([2, 3]))  # not a plain sum
    assert digest(np.array([0])) != digest(np.array([], dtype=np.int64)) == 0


def test_the_digest_leaves_its_argument_alone_and_takes_any_integers():
    ids = np.arange(6)
    expected = digest(ids)
    assert ids.tolist() == [0, 1, 2, 3, 4, 5]
    for kind in (np.int32, np.uint16, np.uint64):
        assert digest(ids.astype(kind)) == expected
    assert digest(ids.reshape(2, 3)) == expected


def test_the_digest_never_changes():
    """Pinned: the ledgers of finished runs hold these numbers."""
    assert digest(np.array([0])) == 16294208416658607535
    assert digest(np.array([3, 1, 2**40, 3])) == 16932911034926514212


# Parts and the whole.


def test_a_new_ledger_is_empty(folder):
    ledger = Ledger(folder)
    assert ledger.last_step() is None
    assert ledger.read().schema == SCHEMA
    assert ledger.read().num_rows == 0
    ledger.append([])
    assert not folder.exists()


def test_rows_come_back_as_they_went_in(folder):
    ledger_of(folder, 3, 4, 10)
    assert Ledger(folder).read().to_pylist() == [asdict(row) for row in rows(0, 10)]
    assert Ledger(folder).last_step() == 9
    assert len(list(folder.iterdir())) == 3


def test_others_read_the_folder_as_one_table(folder):
    ledger = ledger_of(folder, 3, 4, 10)
    (folder / ".steps-x.parquet.tmp").write_bytes(b"half a part")
    assert steps(pq.read_table(folder)) == list(range(10))
    frame = pd.read_parquet(folder)
    assert frame["step"].tolist() == list(range(10))
    assert frame["digest"].tolist() == [row.digest for row in rows(0, 10)]
    assert frame["digest"].dtype == np.uint64
    assert ledger.read().schema == SCHEMA


def test_names_sort_as_steps_do(folder):
    ledger = Ledger(folder)
    ledger.append(rows(98, 102))
    ledger.append(rows(102, 1200))
    assert sorted(p.name for p in folder.iterdir()) == [
        "steps-000000000000098-000000000000101.parquet",
        "steps-000000000000102-000000000001199.parquet",
    ]
    assert steps(ledger.read()) == list(range(98, 1200))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 11), unique=True).map(sorted))
def test_the_digest_does_not_depend_on_parts_ranks_or_attempts(tmp_path_factory, ends):
    folder = tmp_path_factory.mktemp("run") / "ledger.parquet"
    ledger = Ledger(folder)
    cuts = [0, *ends, 12]
    for attempt, (first, last) in enumerate(pairwise(cuts)):
        ledger.append(rows(first, last, attempt=attempt, world_size=attempt + 1))
    whole = ledger_of(folder.parent / "whole", 12)
    assert ledger.digest() == whole.digest()


def test_the_digest_of_a_ledger_sees_what_was_consumed(folder):
    whole = ledger_of(folder, 10).digest()
    assert ledger_of(folder.parent / "shorter", 9).digest() != whole
    changed = rows(0, 10)
    changed[4] = replace(changed[4], digest=changed[4].digest ^ 1)
    other = Ledger(folder.parent / "changed")
    other.append(changed)
    assert other.digest() != whole


# Refusals.


@pytest.mark.parametrize("first", [0, 8, 9, 11, 50])
def test_gaps_and_repetitions_are_refused(folder, first):
    for ledger in (ledger_of(folder, 10), Ledger(folder)):
        with pytest.raises(RunError, match=f"step {first} .*ends with step 9.*trim"):
            ledger.append(rows(first, first + 2))
    assert steps(Ledger(folder).read()) == list(range(10))


def test_a_gap_between_positions_is_refused(folder):
    ledger = ledger_of(folder, 10)
    shifted = replace(rows(10, 11)[0], first_position=41)
    with pytest.raises(RunError, match=r"step 10 from position 41 .*position 39"):
        ledger.append([shifted])


def test_rows_that_do_not_follow_each_other_are_refused(folder):
    given = rows(0, 5)
    for wrong in ([*given[:2], *given[3:]], [given[0], given[0]], given[::-1]):
        with pytest.raises(RunError, match="the rows to append"):
            Ledger(folder).append(wrong)
    assert not folder.exists()


def test_a_lost_part_is_noticed(folder):
    ledger = ledger_of(folder, 3, 6, 9)
    sorted(folder.iterdir())[1].unlink()
    with pytest.raises(RunError, match="step 2, up to position 11, is followed by step 6"):
        ledger.read()


def test_a_part_that_is_there_twice_is_noticed(folder):
    ledger = ledger_of(folder, 3, 6)
    pq.write_table(
        pa.Table.from_pylist([asdict(row) for row in rows(2, 6)], schema=SCHEMA),
        folder / "steps-000000000000002-000000000000005.parquet",
    )
    with pytest.raises(RunError, match="is followed by step 2"):
        ledger.read()


def test_a_damaged_part_is_named(folder):
    ledger = ledger_of(folder, 3, 6)
    part = sorted(folder.iterdir())[1]
    part.write_bytes(part.read_bytes()[:100])
    for ask in (ledger.read, Ledger(folder).last_step):
        with pytest.raises(RunError, match=part.name):
            ask()


# Rollback.


@pytest.mark.parametrize("after", range(-1, 12))
def test_trim_leaves_the_steps_up_to_it(folder, after):
    ledger = ledger_of(folder, 3, 4, 10)
    ledger.trim(after)
    kept = min(after + 1, 10)
    for reader in (ledger, Ledger(folder)):
        assert steps(reader.read()) == list(range(kept))
        assert reader.last_step() == (kept - 1 if kept else None)
    assert steps(pq.read_table(folder)) == list(range(kept)) if kept else True
    ledger.append(rows(kept, 14))
    assert Ledger(folder).digest() == ledger_of(folder.parent / "straight", 14).digest()


def test_trimming_nothing_touches_no_file(folder):
    ledger = ledger_of(folder, 3, 10)
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    ledger.trim(9)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    Ledger(folder.parent / "absent").trim(5)


def test_trim_removes_damaged_parts_behind_it(folder):
    ledger = ledger_of(folder, 3, 6)
    sorted(folder.iterdir())[1].write_bytes(b"PAR1")
    ledger.trim(2)
    assert steps(ledger.read()) == [0, 1, 2]


@pytest.mark.parametrize("after", [-1, 1, 2, 4, 8])
def test_a_crash_at_any_point_of_a_trim_leaves_a_prefix(folder, after, monkeypatch):
    """Each change of the folder in turn is the last one before the lights go out."""
    for survived in range(20):
        target = folder.parent / f"crash{survived}"
        ledger_of(target, 3, 6, 9)
        with monkeypatch.context() as patch:
            crashed = _crash_after(patch, survived, lambda t=target: Ledger(t).trim(after))
        left = steps(Ledger(target).read())
        assert left == list(range(len(left)))
        assert len(left) >= after + 1
        assert steps(pq.read_table(target)) == left if left else True
        assert Ledger(target).last_step() == (left[-1] if left else None)
        Ledger(target).trim(after)  # what the next attempt does
        Ledger(target).append(rows(after + 1, 12))
        assert steps(Ledger(target).read()) == list(range(12))
        if not crashed:
            assert survived > 0 or after == 8
            return
    pytest.fail("the trim never came to its end")


def test_a_crash_at_any_point_of_an_append_leaves_all_or_nothing(folder, monkeypatch):
    for survived in range(20):
        target = folder.parent / f"crash{survived}"
        ledger_of(target, 3)
        with monkeypatch.context() as patch:
            crashed = _crash_after(patch, survived, lambda t=target: Ledger(t).append(rows(3, 6)))
        assert steps(Ledger(target).read()) in ([0, 1, 2], [0, 1, 2, 3, 4, 5])
        if not crashed:
            return
        Ledger(target).trim(2)
        Ledger(target).append(rows(3, 6))
        assert steps(Ledger(target).read()) == list(range(6))
    pytest.fail("the append never came to its end")


@pytest.mark.parametrize("change", ["trim", "append"])
def test_a_writer_that_lives_through_a_failure_knows_where_it_is(folder, monkeypatch, change):
    for survived in range(20):
        target = folder.parent / f"failed{survived}"
        ledger = ledger_of(target, 3, 9)
        work = {"trim": lambda x: x.trim(4), "append": lambda x: x.append(rows(9, 12))}[change]
        with monkeypatch.context() as patch:
            failed = _crash_after(patch, survived, lambda x=ledger, do=work: do(x))
        assert ledger.last_step() == Ledger(target).last_step()
        if not failed:
            return
    pytest.fail("the change never came to its end")


class LightsOut(Exception):
    """The crash of a test."""


def _crash_after(patch, survived, work) -> bool:
    """Do `work`, but fail at system call number `survived` that changes or syncs files."""
    count = 0

    def counted(real):
        def call(*args, **kwargs):
            nonlocal count
            if count == survived:
                raise LightsOut
            count += 1
            return real(*args, **kwargs)

        return call

    for name in ("replace", "fsync", "unlink"):
        patch.setattr(os, name, counted(getattr(os, name)))
    patch.setattr(pq, "write_table", counted(pq.write_table))
    patch.setattr(module.Path, "unlink", counted(module.Path.unlink))
    try:
        work()
    except LightsOut:
        return True
    return False


def test_appending_costs_the_same_in_a_long_ledger(folder, monkeypatch):
    """It neither lists the folder nor reads a part, once the end is known."""
    ledger = ledger_of(folder, *range(1, 200))

    def forbidden(*_):
        raise AssertionError("appending looked at the parts")

    monkeypatch.setattr(Ledger, "_parts", forbidden)
    monkeypatch.setattr(module, "_read_part", forbidden)
    ledger.append(rows(199, 205))
    assert ledger.last_step() == 204

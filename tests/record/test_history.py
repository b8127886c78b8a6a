"""`metrics.jsonl`: no step twice, no gap, whatever was cut off."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damages import DAMAGES, damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.config.errors import RunError
from manta.record.history import History, Tail, as_line, kind_of
from manta.record.row_chain import LONGEST_LINE, Mark


def train(step: int) -> dict[str, Any]:
    return {"step": step, "tokens": step * 10, "loss": 1 / step}


def val(step: int) -> dict[str, Any]:
    return {"step": step, "tokens": step * 10, "val_loss": 2 / step}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_step_is_written_once_for_each_kind(tmp_path: Path) -> None:
    history = History(tmp_path / "m")
    for row in (train(1), train(1), val(1), val(1), train(2), train(1), val(2)):
        history.append(row)
    assert read(tmp_path / "m") == [train(1), val(1), train(2), val(2)]
    assert (history.last("training"), history.last("validation")) == (2, 2)


def evaluated(step: int) -> dict[str, Any]:
    return {"step": step, "tokens": step * 10, "evaluation": "quality", "a/success": 0.5}


@given(st.permutations(range(1, 7)), st.lists(st.integers(0, 6), min_size=6, max_size=6))
@settings(max_examples=25)
def test_what_is_evaluated_late_or_out_of_order_is_there_once(
    order: list[int], after: list[int]
) -> None:
    """An evaluation that failed at first is made when the run goes on."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "metrics.jsonl"
        history, trained = History(path), 0
        for step, more in zip(order, after, strict=True):
            for number in range(trained + 1, trained + more + 1):
                history.append(train(number))
                history.append(val(number))
            trained += more
            if history.append(evaluated(step)) is None:
                history.fill([evaluated(step)])
            assert history.append(evaluated(step)) is None
        rows = read(path)
        for kind, steps in (
            ("training", range(1, trained + 1)),
            ("validation", range(1, trained + 1)),
            ("evaluation", range(1, 7)),
        ):
            assert [row["step"] for row in rows if kind_of(row) == kind] == list(steps)
        mark = history.mark
        history.close()
        assert not History(path, mark).changed
        assert History(path).mark == mark


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"loss": 1}, "training"),
        ({"val_loss": 1}, "validation"),
        ({"loss": 1, "val_loss": 1}, "training"),
        ({"evaluation": "quality", "a/loss": 1}, "evaluation"),
    ],
)
def test_kinds(row: dict[str, Any], kind: str) -> None:
    assert kind_of(row) == kind


def test_a_half_written_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    begin(path, 2)
    with path.open("ab") as file:
        file.write(b'{"step": 3, "tok')
    history = History(path)
    assert history.notes == ["metrics.jsonl: a half-written end of 16 bytes was cut off"]
    assert not history.changed
    assert history.append(train(2)) is None
    assert history.append(train(3)) == train(3)
    assert read(path) == [train(1), train(2), train(3)]


def begin(path: Path, steps: int) -> Mark:
    """A history of some steps, and its mark."""
    history = History(path)
    for step in range(1, steps + 1):
        history.append(train(step))
    history.close()
    return history.mark


@pytest.mark.parametrize(
    "line", [b"\0\0\0\0\n", b"[1]\n", b'{"loss": 1}\n', b'{"step": 1, "loss": 1}\n']
)
@pytest.mark.parametrize("at", [1, 3])
def test_a_damaged_line_is_told_and_kept_and_those_after_it_stay(
    tmp_path: Path, line: bytes, at: int
) -> None:
    path = tmp_path / "metrics.jsonl"
    mark = begin(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:at], line, *lines[at:]]))
    history = History(path, mark)
    assert read(path) == [train(1), train(2), train(3)]
    assert history.changed
    assert f"1 of its lines ({at + 1}) are damaged" in history.notes[-1]
    assert (tmp_path / "metrics.damaged").read_bytes() == line
    assert history.append(train(4)) == train(4)
    history.close()
    assert History(path, history.mark).notes == []


def test_missing_rows_are_told_and_filled_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    mark = begin(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[3]]))
    history = History(path, mark)
    assert "was changed after it was written" in history.notes[0]
    assert history.fill([train(1), train(2), val(2)]) == 2
    assert read(path) == [train(1), train(2), val(2), train(4)]
    assert history.append(train(4)) is None
    assert history.append(train(5)) == train(5)
    assert read(path)[-1] == train(5)
    assert History(path, history.mark).notes == []


def test_a_changed_value_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    mark = begin(path, 2)
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.7"))
    assert "its content differs" in History(path, mark).notes[0]


def test_values_become_plain_json(tmp_path: Path) -> None:
    history = History(tmp_path / "m")
    row = {"step": 1, "tokens": np.int64(10), "loss": np.float32(0.5), "lr": math.nan}
    assert history.append(row) == {"step": 1, "tokens": 10, "loss": 0.5, "lr": None}
    assert read(tmp_path / "m") == [{"step": 1, "tokens": 10, "loss": 0.5, "lr": None}]


ROWS = [row for step in range(1, 13) for row in ([train(step), val(step)][: 1 + (step % 4 == 0)])]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000), known=st.integers(0, len(ROWS)), first=st.integers(0, len(ROWS)))
def test_any_crash_then_any_overlapping_repeat_gives_the_same_file(
    cut: int, known: int, first: int
) -> None:
    """A file cut at any byte, an older mark, and rows again from anywhere before the cut."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        history = History(path)
        mark = Mark()
        for number, row in enumerate(ROWS, start=1):
            history.append(row)
            if number == known:
                mark = history.mark
        history.close()
        whole = path.read_bytes()
        path.write_bytes(whole[: cut % (len(whole) + 1)])
        left = path.read_bytes().count(b"\n")

        history = History(path, mark)
        for row in ROWS[min(first, left) :]:
            history.append(row)
        history.close()
        assert path.read_bytes() == whole


def test_only_rows_that_came_after_the_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m"
    mark = begin(path, 2)
    # What is before the mark is compared as a whole: its last step is the mark's.
    known = mark.model_copy(update={"last": {"training": 41}})
    assert History(path, known).last("training") == 41


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_rows_wait_while_the_disk_is_full_and_none_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(tmp_path / "m")
    history.append(train(1))
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, data[:5], at))
    assert history.append(train(2)) == train(2)
    assert history.append(train(2)) is None
    assert history.append(train(3)) == train(3)
    assert history.waiting == 2
    assert history.mark.last == {"training": 1}, "what a driver to come finds"
    assert read(tmp_path / "m") == [train(1)]
    monkeypatch.undo()
    history.write()
    assert read(tmp_path / "m") == [train(1), train(2), train(3)]
    assert (history.waiting, history.mark.last) == (0, {"training": 3})


def test_rows_that_wait_can_be_rewound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "m")
    history.append(train(1))
    monkeypatch.setattr(os, "pwrite", full)
    for step in (2, 3, 4):
        history.append(train(step))
    history.rewind(3)
    assert history.append(train(3)) is None
    monkeypatch.undo()
    history.append(train(4))
    assert read(tmp_path / "m") == [train(step) for step in (1, 2, 3, 4)]


def test_another_error_than_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    history = History(tmp_path / "m")
    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(RunError, match=r"m: a row can't be written.*repair the storage"):
        history.append(train(1))


def test_tail_gives_each_whole_row_once(tmp_path: Path) -> None:
    path = tmp_path / "m"
    tail = Tail(path)
    assert list(tail.rows()) == []
    history = History(path)
    history.append(train(1))
    assert list(tail.rows()) == [train(1)]
    assert list(tail.rows()) == []
    with path.open("ab") as file:
        file.write(b'{"step": 2,')
        file.flush()
        assert list(tail.rows()) == []
        file.write(b' "tokens": 20}\n')
    assert list(tail.rows()) == [{"step": 2, "tokens": 20}]


def test_rewind_drops_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "m"
    history = History(path)
    tail = Tail(path)
    for row in (train(1), val(1), train(2), train(3), val(3)):
        history.append(row)
    assert len(list(tail.rows())) == 5
    history.rewind(2)
    assert read(path) == [train(1), val(1), train(2)]
    assert (history.last("training"), history.last("validation")) == (2, 1)
    again = {"step": 3, "tokens": 30, "skipped": True}
    assert history.append(train(2)) is None
    assert history.append(again) == again
    assert history.append(val(3)) == val(3)
    # Who follows the file sees another one.
    assert list(tail.rows()) == [train(1), val(1), train(2), again, val(3)]
    mark = history.mark
    history.close()
    assert History(path, mark).last("training") == 3
    assert not list(tmp_path.glob(".*"))


# ------------------------------------------------------------------ what opening reads


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Mark]:
    """A history of many rows, and its mark."""
    path = tmp_path_factory.mktemp("long") / "m"
    mark = begin(path, 20_000)
    return path.read_bytes(), mark


def bytes_read(act: Callable[[], Any]) -> int:
    """What this process reads of any file while it does something."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = so_far()
    idle = so_far() - before
    before = so_far()
    act()
    return so_far() - before - idle


def test_opening_reads_the_rows_after_the_mark_and_the_one_before(
    tmp_path: Path, long: tuple[bytes, Mark]
) -> None:
    path, (content, mark) = tmp_path / "m", long
    path.write_bytes(content)
    history = History(path, mark)
    for step in range(20_001, 20_011):
        history.append(train(step))
    history.close()
    tail = path.stat().st_size - mark.bytes
    read_once = bytes_read(lambda: History(path, mark).close())
    assert tail <= read_once < tail + 1000 < mark.bytes / 100
    again = History(path, history.mark)
    assert again.append(train(20_011)) == train(20_011)
    again.close()
    assert bytes_read(lambda: History(path, again.mark).close()) < 1000
    assert not History(path, again.mark).recheck(), "the chain is that of all rows"


def test_memory_does_not_grow_with_the_file(tmp_path: Path, long: tuple[bytes, Mark]) -> None:
    path, (content, mark) = tmp_path / "m", long
    path.write_bytes(content.replace(b'"step": 77,', b'"stop": 77,', 1))

    def act() -> None:
        history = History(path, mark)
        assert history.recheck()
        assert history.fill([train(77)]) == 1
        history.rewind(19_000)
        assert sum(1 for _ in Tail(path).rows()) == 19_000

    tracemalloc.start()
    try:
        act()
        assert tracemalloc.get_traced_memory()[1] < len(content) / 2
    finally:
        tracemalloc.stop()
    assert read(path) == [train(step) for step in range(1, 19_001)]


def test_a_line_without_end_is_taken_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "m"
    mark = begin(path, 2)
    with path.open("ab") as file:
        file.write(bytes(LONGEST_LINE + 10) + b"\n")
    with path.open("ab") as file:
        file.write(as_line(train(3)))
    history = History(path, mark)
    assert "2 of its lines (3, 4) are damaged" in history.notes[0]
    assert read(path) == [train(1), train(2), train(3)]
    assert (tmp_path / "metrics.damaged").stat().st_size == LONGEST_LINE + 11


# ------------------------------------------------------------------ what is before the mark


def test_a_change_far_before_the_mark_is_found_by_whoever_reads_it_all(tmp_path: Path) -> None:
    path = tmp_path / "m"
    mark = begin(path, 5)
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.7"))
    history = History(path, mark)
    assert (history.notes, history.changed) == ([], False)
    history.append(train(6))
    assert history.recheck()
    assert "its content differs" in history.notes[0]
    assert (history.changed, history.unproven) == (True, 6)
    history.append(train(7))
    assert History(path, history.mark).unproven == 6, "it is not forgotten"
    assert not history.recheck(), "and told once"


@pytest.mark.parametrize("lost", [0, 2, 4])
def test_a_lost_row_is_told_though_the_file_has_grown_beyond_the_mark(
    tmp_path: Path, lost: int
) -> None:
    path = tmp_path / "m"
    mark = begin(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[lost]
    path.write_bytes(b"".join(lines) + as_line(train(6)) + as_line(train(7)))
    assert path.stat().st_size > mark.bytes
    assert "was changed after it was written" in History(path, mark).notes[0]


@pytest.mark.parametrize("damage", [*DAMAGES, "the first line"])
def test_no_damage_before_the_mark_is_missed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m"
    mark = begin(path, 9)
    if damage == "the first line":
        path.write_bytes(path.read_bytes().replace(b'"step": 1,', b'"step":  ,'))
    else:
        assert damaged(path, damage)
    history = History(path, mark)
    assert history.changed or history.recheck()
    assert history.notes
    kept = [row for row in read(path) if row != train(row["step"])]
    assert len(kept) <= (damage == "one bit")
    history.append(train(10))
    assert not history.recheck()


@pytest.mark.parametrize(("old", "right"), [("digest", True), ("digest", False), ("none", True)])
def test_a_mark_of_an_older_version(tmp_path: Path, old: str, right: bool) -> None:
    path = tmp_path / "m"
    begin(path, 4)
    content = path.read_bytes()
    known = hashlib.sha256(content).hexdigest() if old == "digest" else ""
    mark = Mark(bytes=len(content), digest=known, last={"training": 4})
    if not right:
        path.write_bytes(content.replace(b"0.5", b"0.7"))
    history = History(path, mark)
    assert history.changed is not right
    history.append(train(5))
    history.close()
    again = History(path, history.mark)
    assert (again.notes, again.last("training"), again.mark.rows) == ([], 5, 5)
    assert not again.recheck()

"""Packing is a law on lengths: nothing is cut, lost or laid out by chance; little room is left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.sample.packing import pack

LENGTHS = st.lists(st.integers(1, 50), max_size=200)


@given(LENGTHS, st.integers(50, 80))
def test_each_record_is_in_one_row_that_holds_it(lengths: list[int], capacity: int) -> None:
    rows = pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity for row in rows)
    assert rows == sorted(rows)
    assert all(row == sorted(row) for row in rows)
    assert pack(lengths, capacity) == rows


@given(LENGTHS, st.integers(50, 80))
def test_no_two_rows_would_fit_into_one(lengths: list[int], capacity: int) -> None:
    sums = sorted(sum(lengths[index] for index in row) for row in pack(lengths, capacity))
    assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_the_room_that_is_left_least_is_taken() -> None:
    assert pack([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert pack([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]


def test_little_is_wasted_on_lengths_as_chats_have_them() -> None:
    lengths = [1 + (index * 7919) % 700 + (index % 13) * 60 for index in range(3000)]
    rows = pack(lengths, 2048)
    assert sum(lengths) >= 0.995 * 2048 * (len(rows) - 1)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="record 1 has a length of 11, not 1 to 10"):
        pack([3, 11], 10)
    with pytest.raises(ValueError, match="record 0 has a length of 0"):
        pack([0], 10)

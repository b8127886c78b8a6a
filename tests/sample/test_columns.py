"""Columns travel as Arrow and come back the same, whole or in part, without a copy."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from manta.sample.columns import Ragged, from_arrow, to_arrow

numbers = st.sampled_from([np.uint16, np.int64, np.float32, np.float64, np.bool_])
lists = st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6)


def ragged(rows: list[list[int]]) -> Ragged:
    bounds = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    return Ragged(np.array(list(chain(*rows)), np.int32), bounds)


@settings(deadline=None)
@given(column=arrays.arrays(numbers, arrays.array_shapes(min_dims=1, max_dims=3)), data=st.data())
def test_an_array_comes_back_in_its_shape_and_type(column: Any, data: Any) -> None:
    array = to_arrow(column)
    back = from_arrow(array)
    assert isinstance(back, np.ndarray)
    assert (back.dtype, back.shape) == (column.dtype, column.shape)
    np.testing.assert_array_equal(back, column)
    first = data.draw(st.integers(0, len(column)))
    np.testing.assert_array_equal(from_arrow(array.slice(first)), column[first:])


@settings(deadline=None)
@given(rows=lists, data=st.data())
def test_ragged_lists_come_back_and_are_sliced(rows: list[list[int]], data: Any) -> None:
    back = from_arrow(to_arrow(ragged(rows)))
    assert isinstance(back, Ragged)
    assert back.tolist() == rows
    first = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(0, len(rows)))
    assert back[first:end].tolist() == rows[first:end]
    assert back[first:end].flat.tolist() == list(chain(*rows[first:end]))
    assert len(back[first:end]) == len(rows[first:end]) == len(back[first:end].lengths)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (0, 3, 2)])
def test_no_samples_keep_shape_and_type(shape: tuple[int, ...]) -> None:
    back = from_arrow(to_arrow(np.empty(shape, np.float32)))
    assert isinstance(back, np.ndarray)
    assert (back.shape, back.dtype) == (shape, np.float32)


def test_arrays_of_numbers_are_not_copied() -> None:
    column = np.arange(12, dtype=np.float32).reshape(4, 3)
    array = to_arrow(column)
    assert np.shares_memory(from_arrow(array), column)
    assert pa.types.is_fixed_size_list(array.type)

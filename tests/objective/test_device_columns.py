"""Columns of numbers as rows on a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manta.config.errors import ConfigError
from manta.objective.device_columns import DeviceColumns
from manta.sample.columns import Ragged

CPU = torch.device("cpu")
BATCH = {
    "x": np.arange(6, dtype=np.float32).reshape(3, 2),
    "y": np.array([7, 8, 9]),
    "words": Ragged(np.arange(4), np.array([0, 1, 3, 4])),
}


def test_blank_rows_are_zeros_that_count_nothing():
    rows = DeviceColumns.of(BATCH, ("y", "x"), CPU)
    y, x, counted = rows.rows(slice(1, 3), width=4)
    assert len(rows) == 3
    assert y.tolist() == [8, 9, 0, 0]
    assert x.tolist() == [[2, 3], [4, 5], [0, 0], [0, 0]]
    assert counted.tolist() == [1, 1, 0, 0]


def test_a_rank_without_rows_has_a_blank_one():
    x, counted = DeviceColumns.of(BATCH, ("x",), CPU).rows(slice(3, 3))
    assert x.shape == (1, 2)
    assert counted.tolist() == [0]


def test_lists_of_any_length_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"DeviceColumns: words: .*inputs\(\)"):
        DeviceColumns.of(BATCH, ("x", "words"), CPU)

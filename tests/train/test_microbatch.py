"""Rows are cut into forward passes without losing one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.schedule import Step
from manta.schedule.plateaus import Plateau
from manta.stream.plan import share
from manta.train.microbatch import largest_slice, micro_slices, micro_steps, one_size


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 40))
def test_every_row_is_in_one_pass_and_no_pass_is_too_large(batch, world_size, micro_batch) -> None:
    steps = micro_steps(batch, world_size, micro_batch)
    step = Step(0, 0, batch, 0, 0, 0.0)
    largest = 0
    for rank in range(world_size):
        mine = share(step, rank, world_size)
        rows = mine.end - mine.first
        slices = micro_slices(rows, steps)
        assert len(slices) == steps
        assert [i for s in slices for i in range(s.start, s.stop)] == list(range(rows))
        sizes = [s.stop - s.start for s in slices]
        assert max(sizes) <= micro_batch
        largest = max(largest, *sizes)
        # The last pass exchanges gradients: it is empty only without any rows.
        assert sizes[-1] == max(sizes)
        assert max(sizes) - min(sizes) <= 1
    assert largest_slice(batch, world_size, micro_batch) == largest


@pytest.mark.parametrize(
    ("batches", "world_size", "size"),
    [
        ({64: 100}, 1, 8),
        ({12: 100}, 1, 6),  # two passes of 6 and not of 8, with 4 blank rows
        ({12: 100}, 2, 6),
        ({9: 100}, 2, 5),
        ({3: 100}, 4, 1),
        ({8: 1, 12: 100}, 1, 6),  # the few steps of 8 have 4 blank rows
        ({8: 100, 12: 1}, 1, 8),
        ({2: 100, 8: 100}, 1, 8),  # 2 would leave no blank row, but make many small passes
    ],
)
def test_one_size_for_all_passes_leaves_few_rows_blank(batches, world_size, size) -> None:
    plateaus = [Plateau(0, 0, batch, steps) for batch, steps in batches.items()]
    assert one_size(plateaus, world_size, 8) == size
    assert all(largest_slice(batch, world_size, size) <= size for batch in batches)

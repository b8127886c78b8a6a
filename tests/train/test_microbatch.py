"""Rows are cut into forward passes without losing one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from manta.schedule import Step
from manta.stream.plan import share
from manta.train.microbatch import largest_slice, micro_slices, micro_steps


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

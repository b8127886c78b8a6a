"""Which checkpoints stay: the newest, the best, those asked for, and those not measured yet."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from manta.state.checkpoint_files import Inventory, TrainState, inventories, name_of
from manta.state.pruning import prune

STEPS = st.sets(st.integers(1, 30), min_size=1, max_size=12)


@given(
    steps=STEPS,
    keep=st.integers(1, 4),
    pinned=st.sets(st.integers(1, 30), max_size=4),
    awaited=st.sets(st.integers(1, 30), max_size=4),
    losses=st.dictionaries(st.integers(1, 30), st.floats(0, 9), max_size=12),
)
def test_nothing_stays_without_a_reason_and_nothing_goes_with_one(
    steps: set[int], keep: int, pinned: set[int], awaited: set[int], losses: dict[int, float]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step in steps:
            (folder / name_of(step)).mkdir()
            Inventory(TrainState(step=step, val_loss=losses.get(step)), {}).write(
                folder / name_of(step), 1
            )
        prune(folder, keep, pinned, lambda there: awaited)
        left = {one.state.step for one in inventories(folder).values() if not isinstance(one, str)}
    newest = set(sorted(steps - pinned)[-keep:])
    scored = [(losses[step], step) for step in steps if step in losses]
    best = {min(scored)[1]} if scored else set()
    assert left == steps & (newest | pinned | awaited | best)

"""A sweep whose file is damaged in any way is refused, and says so."""

from __future__ import annotations

import pytest
from damages import DAMAGES, damaged

from manta.config.errors import RunError
from manta.record.sweep_state import read_sweep, write_sweep
from manta.tune.sweep_plan import Outline

GRID = "space = {'schedule.batch': tune.grid_search([4, 8])}"


@pytest.fixture
def outline(sweep):
    """A sweep of which one trial has begun."""
    found = Outline(sweep(GRID).config)
    folder = found.folder
    (folder / "t000").mkdir(parents=True)
    write_sweep(folder, found.state())
    (folder / "t000" / "run.json").write_text("{}")
    assert read_sweep(folder).trials
    return found


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_sweep(outline, damage):
    assert damaged(outline.folder / "sweep.json", damage)
    with pytest.raises(RunError, match=r"sweep\.json.*put it back|sweep\.json.*restore it"):
        outline.state()


def test_any_bit_of_a_sweep(outline):
    path = outline.folder / "sweep.json"
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        changed = bytearray(content)
        changed[at] ^= 4
        path.write_bytes(changed)
        try:
            state = read_sweep(outline.folder)
        except RunError:
            continue
        path.write_bytes(content)
        assert state == read_sweep(outline.folder), at

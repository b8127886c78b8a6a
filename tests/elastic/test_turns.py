"""Runs that each hold a part of what they need: one goes first, and none waits for ever."""

from __future__ import annotations

import time

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from manta.elastic.controller import turns
from manta.elastic.controller.slots import Slots
from manta.elastic.controller.turns import Turns, Waiting, goes_first, name_of, runs_in

CPU = {"CPU": 1.0}


def group(name: str, state: str) -> dict[str, object]:
    return {"name": name, "state": state, "bundles": {0: CPU}}


def test_runs_are_read_from_the_table_of_placement_groups() -> None:
    table = [
        group(name_of("a", 2, 1), "CREATED"),
        group(name_of("a", 2, 2), "PENDING"),
        group(name_of("a", 2, 3), "REMOVED"),
        group(name_of("trial/b", 1, 1), "CREATED"),
        group(name_of("trial/b", 1, 2), "PENDING"),  # it trains, and would like to grow
        group("of/someone/else", "PENDING"),
        group("", "CREATED"),
    ]
    assert runs_in(table) == {"a": Waiting(2, CPU, 1, 2), "trial/b": Waiting(1, CPU, 1, 2)}
    assert [run.missing for run in runs_in(table).values()] == [1, 0]


def waiting(minimum: int, held: int) -> Waiting:
    return Waiting(minimum, CPU, held, minimum)


@pytest.mark.parametrize(
    ("runs", "first"),
    [
        ({"a": waiting(2, 1), "b": waiting(2, 1)}, "a"),
        ({"a": waiting(2, 0), "b": waiting(3, 2)}, "a"),
        # What b has is not enough for a, and b need not wait for it.
        ({"a": waiting(4, 1), "b": waiting(3, 2)}, None),
        ({"a": waiting(9, 1), "b": waiting(2, 1), "c": waiting(2, 1)}, "b"),
        ({"a": Waiting(1, CPU, 1, 3), "b": waiting(3, 2)}, None),  # a trains
        ({"a": waiting(2, 1), "b": waiting(1, 1)}, None),  # b can begin
        ({"a": Waiting(1, {"GPU": 1.0}, 0, 1), "b": waiting(3, 2)}, None),  # b holds no GPU
    ],
)
def test_who_goes_first(runs: dict[str, Waiting], first: str | None) -> None:
    last = max(runs)
    assert goes_first(runs, last) == first
    assert first is None or goes_first(runs, first) is None


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.tuples(st.integers(1, 5), st.integers(0, 5)).map(lambda n: waiting(n[0], min(*n))),
    )
)
def test_whoever_others_give_way_for_keeps_its_slots_and_can_begin(runs) -> None:
    for owner in runs:
        first = goes_first(runs, owner)
        if first is not None:
            assert first < owner
            assert goes_first(runs, first) is None
            later = sum(run.held for name, run in runs.items() if name > first and run.missing)
            assert runs[first].held + later >= runs[first].minimum


@pytest.mark.usefixtures("ray_local")
def test_two_runs_that_hold_half_each_train_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On two CPUs, of which each run has got one and needs both."""
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(turns, "LOOK_SECONDS", 0.05)
    runs = {name: (Slots(CPU, name, minimum=2), Turns(name)) for name in ("turn-b", "turn-a")}
    try:
        for slots, _ in runs.values():
            slots.request(1)
            _until(lambda slots=slots: _ready(slots) == 1)
        began: list[str] = []
        _until(lambda: len(began) == 2 or _look(runs, began))
        assert began == ["turn-a", "turn-b"]
    finally:
        for slots, _ in runs.values():
            slots.release()
        _until(lambda: ray.available_resources().get("CPU") == 2.0)


def _look(runs: dict[str, tuple[Slots, Turns]], began: list[str]) -> bool:
    """What each controller does while it has no group; a run that can begin ends at once."""
    for name, (slots, own) in runs.items():
        if name in began or own.stays_back():
            continue
        slots.request(2)
        if _ready(slots) == 2:
            began.append(name)
            slots.release()
        elif own.give_way(_ready(slots)):
            slots.release()
    return len(began) == 2


def _ready(slots: Slots) -> int:
    slots.refresh()
    return len(slots.ready)


def _until(reached) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)

"""Slots, spares and nodes on a real Ray, of one node with two CPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group_table

from manta.elastic.cluster_state import actor_replies, nodes
from manta.elastic.cluster_state.node_labels import NodeWish
from manta.elastic.controller import slots
from manta.elastic.controller.slots import Slots, release_all_of
from manta.elastic.controller.warm_workers import WarmWorkers

pytestmark = pytest.mark.usefixtures("ray_local")
SECONDS = 30.0


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(name="slots")
def of_cpus() -> Iterator[Slots]:
    found = Slots({"CPU": 1.0}, "test")
    yield found
    found.release()
    until(lambda: ray.available_resources().get("CPU") == 2.0)


@pytest.fixture
def anchored() -> Iterator[tuple[Slots, list[str]]]:
    """Slots that are there once a process in them has said so, as those with GPUs are."""
    notes: list[str] = []
    found = Slots({"CPU": 1.0}, "anchored", note=notes.append, accelerator="CPU")
    yield found, notes
    found.release()
    until(lambda: ray.available_resources().get("CPU") == 2.0)


def places_of(owner: str) -> int:
    """How many of its slots have been given a node."""
    groups = placement_group_table().values()
    return sum(g["name"].startswith(f"{owner}/") and g["state"] == "CREATED" for g in groups)


def ready(slots: Slots, count: int) -> bool:
    slots.refresh()
    return len(slots.ready) == count


def test_slots_come_as_far_as_there_is_room(slots: Slots) -> None:
    slots.request(3)
    until(lambda: ready(slots, 2))
    assert slots.pending == 1
    assert {slot.node for slot in slots.ready} == set(nodes.alive())
    slots.request(2)
    assert slots.pending == 0
    assert len(slots.ready) == 2
    kept = slots.ready[:1]
    slots.keep(kept)
    assert slots.ready == kept


def test_a_slot_outlives_what_runs_beside_it_and_takes_its_resources(slots: Slots) -> None:
    slots.request(2)
    until(lambda: ready(slots, 2))
    until(lambda: ray.available_resources().get("CPU", 0.0) == 0.0)


def test_room_is_what_nobody_holds(slots: Slots) -> None:
    (node,) = nodes.alive()
    assert nodes.free_for({"CPU": 1.0}, 8) == {node: 2}
    assert nodes.free_for({"CPU": 1.0}, 1) == {node: 1}
    assert nodes.free_for({"CPU": 3.0}, 8) == nodes.free_for({"GPU": 1.0}, 8) == {}
    slots.request(1)
    until(lambda: ready(slots, 1))
    until(lambda: nodes.free_for({"CPU": 1.0}, 8) == {node: 1})
    assert nodes.room_for({"CPU": 1.0}) == 2


def test_slots_on_unusable_nodes_are_given_up(slots: Slots) -> None:
    slots.request(2)
    until(lambda: ready(slots, 2))
    slots.refresh(set(nodes.alive()))
    assert slots.ready == []


def test_slots_whose_anchor_is_about_to_answer_are_waited_for(anchored) -> None:
    found, notes = anchored
    found.request(3)
    until(lambda: places_of("anchored") == 2)
    found.refresh()
    # Their anchors are processes that have just been asked for.
    assert (len(found.ready), found.answering) == (0, 2)
    found.wait(3, 0.0, lambda: True)
    assert found.answering == 2, "who gives up doesn't wait"
    found.wait(3, 0.0, lambda: False)
    assert (len(found.ready), found.answering, found.pending) == (2, 0, 1)
    assert notes == []


def test_an_anchor_that_dies_before_it_answers_is_replaced(
    anchored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "died"

    class DiesOnce:
        def devices(self, accelerator: str) -> tuple[str, ...]:
            if not mark.exists():
                mark.touch()
                os._exit(1)
            return ("7",)

    def died_before_an_answer_that_now_arrives(reference: object) -> bool:
        answer = actor_replies.died(reference)
        ray.wait([reference], timeout=SECONDS)
        return answer

    monkeypatch.setattr(slots, "_Anchor", DiesOnce)
    monkeypatch.setattr(slots, "died", died_before_an_answer_that_now_arrives)
    found, notes = anchored
    found.request(1)
    until(lambda: ready(found, 1))
    assert mark.exists()
    assert len(notes) == 1
    assert found.ready[0].devices == ("7",)
    until(lambda: places_of("anchored") == 1)


def test_a_stuck_anchor_is_not_waited_for(anchored, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = anchored
    monkeypatch.setattr(slots, "ANCHOR_SECONDS", 0.0)
    found.request(1)
    until(lambda: places_of("anchored") == 1)
    found.refresh()
    assert (found.pending, found.answering) == (1, 0)


def test_what_a_killed_owner_held_is_given_back(slots: Slots) -> None:
    other = Slots({"CPU": 0.5}, "other")
    other.request(5)
    until(lambda: ready(other, 4))
    release_all_of("oth")
    assert ready(other, 4)
    release_all_of("other")
    slots.request(2)
    until(lambda: ready(slots, 2))


@ray.remote(num_cpus=0)
class Worker:
    def name(self) -> str:
        return ray.get_runtime_context().get_actor_id()


def start(node: str):
    actor = Worker.remote()
    return actor, actor.name.remote()


def test_spares_are_kept_taken_and_replaced() -> None:
    spares = WarmWorkers(start)
    spares.fill({"a": 2, "b": 1})
    until(lambda: spares.warm("a") == 2 and spares.warm("b") == 1)
    taken, other = spares.take(["a", "b"])
    assert ray.get(taken.name.remote())
    assert spares.warm("a") == 1
    ray.kill(other)
    assert spares.warm("b") == 0
    (new,) = spares.take(["b"])
    assert ray.get(new.name.remote()), "without a spare one is started"
    spares.fill({"a": 2})
    until(lambda: spares.warm("a") == 2)
    spares.release()
    assert spares.warm("a") == 0


@pytest.mark.parametrize("when", ["before it was warm", "since"])
def test_a_spare_that_died_is_not_handed_out(when: str) -> None:
    handles = []

    def remember(node: str):
        handles.append(start(node))
        return handles[-1]

    spares = WarmWorkers(remember)
    spares.fill({"a": 1, "b": 1})
    actor, warm = handles[0]
    if when == "since":
        until(lambda: spares.warm("a") == spares.warm("b") == 1)
    ray.kill(actor)
    until(lambda: bool(ray.wait([warm], timeout=0)[0]))
    until(lambda: is_dead(actor))
    new, kept = spares.take(["a", "b"])
    assert kept == handles[1][0]
    assert ray.get([new.name.remote(), kept.name.remote()])
    spares.release()


def is_dead(actor) -> bool:
    try:
        ray.get(actor.name.remote())
    except ray.exceptions.RayError:
        return True
    return False


def test_nodes_that_live_answer_and_others_are_lost() -> None:
    alive = set(nodes.alive())
    assert nodes.lost(alive) == set()
    assert nodes.lost(alive | {"f" * 56}) == {"f" * 56}
    assert nodes.draining() == {}
    assert nodes.leaving(alive) == {}


# A label that Ray gives each node by itself.
NODE_LABEL = "ray.io/node-id"


@pytest.fixture
def wishing() -> Iterator[Callable[..., Slots]]:
    """Makes slots that are given back."""
    made: list[Slots] = []

    def make(price: float = 0.0, **wish: Any) -> Slots:
        made.append(
            Slots({"CPU": 1.0}, "wishing", wish=NodeWish(**wish), price=lambda labels: price)
        )
        return made[-1]

    yield make
    for each in made:
        each.release()
    until(lambda: ray.available_resources().get("CPU") == 2.0)


def test_a_preferred_node_is_taken_and_known_as_one(wishing) -> None:
    here = ray.get_runtime_context().get_node_id()
    slots = wishing(prefer={NODE_LABEL: ["another", here]}, patience=SECONDS, price=0.7)
    slots.request(2)
    until(lambda: ready(slots, 2))
    assert [(slot.node, slot.preferred, slot.price) for slot in slots.ready] == [
        (here, True, 0.7)
    ] * 2


def test_without_a_preferred_node_any_is_taken_after_a_while(wishing) -> None:
    slots = wishing(prefer={NODE_LABEL: ["another"]}, patience=0.2)
    slots.request(1)
    assert slots.pending == 1
    until(lambda: ready(slots, 1))
    assert not slots.ready[0].preferred


def test_an_avoided_node_is_never_taken(wishing) -> None:
    here = ray.get_runtime_context().get_node_id()
    slots = wishing(avoid={NODE_LABEL: [here]})
    slots.request(1)
    other = Slots({"CPU": 1.0}, "beside")  # once it is placed, Ray has looked at both
    other.request(1)
    until(lambda: ready(other, 1))
    other.release()
    slots.refresh()
    assert (slots.ready, slots.pending) == ([], 1)

"""The executor's pauses by themselves; test_pipeline.py has them in a stream on a real Ray."""

import inspect
import pickle
import threading

import pytest
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from manta.stream import pace
from manta.stream.pace import LONGEST, SHORTEST, Pace


@pytest.fixture
def pauses(monkeypatch):
    """How long each pause would have been that ran out."""
    found = []

    class Passed(threading.Event):
        def wait(self, timeout=None):
            if not self.is_set():
                found.append(timeout)
            return self.is_set()

    monkeypatch.setattr(pace, "Event", Passed)
    return found


def look(one, times=1):
    for _ in range(times):
        one.on_execution_step(None)


def test_pauses_grow_while_nobody_asks(pauses):
    look(Pace(), 20)
    assert pauses[:4] == [SHORTEST, 2 * SHORTEST, 4 * SHORTEST, 8 * SHORTEST]
    assert pauses[-1] == LONGEST


def test_no_pause_while_a_block_is_waited_for(pauses):
    one = Pace()
    with one.wanting():
        look(one, 5)
    assert pauses == []


def test_they_begin_anew_once_a_block_was_taken(pauses):
    one = Pace()
    look(one, 3)
    with one.wanting():
        pass
    look(one, 2)
    assert pauses[3:] == [SHORTEST, 2 * SHORTEST]


def test_an_execution_that_is_to_end_makes_none(pauses):
    one = Pace()
    with one.wanting():
        one.close()
    look(one, 5)
    assert pauses == []


def test_someone_who_asks_ends_a_pause():
    one = Pace()
    one._pause = LONGEST
    thread = threading.Thread(target=look, args=(one,))
    thread.start()
    with one.wanting():
        thread.join(timeout=LONGEST / 2)
    assert not thread.is_alive()


def test_it_goes_where_settings_of_a_dataset_go():
    callback = pickle.loads(pickle.dumps(Pace().itself))()
    assert isinstance(callback, Pace)


def test_ray_data_calls_what_there_is():
    """All that it calls of a callback, with as many arguments."""

    def calls_of(one):
        return {
            name: len(inspect.signature(call).parameters)
            for name, call in inspect.getmembers(one, inspect.isfunction)
            if name.startswith(("before_", "on_", "after_"))
        }

    assert calls_of(Pace) == calls_of(ExecutionCallback)
    assert "custom_execution_callback_classes" in vars(DataContext())

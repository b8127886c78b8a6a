"""The executor's pauses: by themselves, and in a stream on a real Ray that nobody reads on."""

import inspect
import pickle
import threading
from itertools import pairwise

import numpy as np
import pytest
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule
from manta.stream import pace, pipeline, plan
from manta.stream.pace import LONGEST, SHORTEST, Pace

SEQ_LEN = 16


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


@pytest.mark.usefixtures("ray_local")
def test_a_stream_that_nobody_reads_on_comes_to_rest(monkeypatch, tmp_path, make_corpus):
    """And goes on afterwards, although Ray Data would have given up after so long."""
    looks, rests = [], threading.Event()

    class Watched(Pace):
        def on_execution_step(self, executor):
            looks.append(self._pause)
            if self._pause >= 100 * SHORTEST:
                rests.set()
            super().on_execution_step(executor)

    monkeypatch.setattr(pipeline, "Pace", Watched)
    monkeypatch.setattr(pipeline, "HEAD_BLOCKS", 0)
    monkeypatch.setattr(pipeline, "FIRST_WINDOW", 16)
    monkeypatch.setattr(pipeline, "AHEAD_BYTES", 2**14)
    monkeypatch.setattr(plan, "BLOCK_STEPS", 32)
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 1e-3)
    manifest = make_corpus(tmp_path, {"train": [[700] * 10]})
    corpus = plan.open_corpus(str(tmp_path), manifest, "train", SEQ_LEN, 3)
    section = {"horizon": 7 * 600 * SEQ_LEN, "lr": 1.0, "batch": 7}
    schedule = Schedule.resolve(ScheduleSection.model_validate(section), SEQ_LEN)
    batches = pipeline.stream(corpus, schedule, cursor=0, rank=0, world_size=1)
    got = [next(batches)]
    assert rests.wait(60), "it looks for work all the time"
    longer = [after for before, after in pairwise(looks) if after > before]
    assert len(longer) >= 6
    got += batches
    expected = list(plan.local_stream(corpus, schedule, cursor=0, rank=0, world_size=1))
    assert len(got) == len(expected) == 600
    for one, other in zip(got, expected, strict=True):
        assert np.array_equal(one.samples.tokens, other.samples.tokens)

"""The stream on a real Ray: the plan's rows, in the plan's order, and nothing left behind."""

import logging
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise

import numpy as np
import pytest
from ray.data import DataContext

from manta.config.errors import CorpusError, StreamError
from manta.config.schedule import ScheduleSection
from manta.sample.tokens import Tokens
from manta.schedule import Schedule
from manta.stream import pipeline, plan
from manta.stream.pace import SHORTEST, Pace

SEQ_LEN = 16
pytestmark = pytest.mark.usefixtures("ray_local", "small_windows")


@pytest.fixture
def small_windows(monkeypatch):
    """A head of two blocks, then windows of 2, 4, 5, 5, … blocks, all of a few steps each."""
    monkeypatch.setattr(pipeline, "OPENING_BLOCKS", 2)
    monkeypatch.setattr(pipeline, "OPENING_TOKENS", SEQ_LEN * 9)
    monkeypatch.setattr(pipeline, "FIRST_WINDOW", 2)
    monkeypatch.setattr(pipeline, "LARGEST_WINDOW", 5)
    monkeypatch.setattr(plan, "BLOCK_TOKENS", SEQ_LEN * 17)
    monkeypatch.setattr(plan, "BLOCK_STEPS", 8)


@pytest.fixture
def without_head(monkeypatch, small_windows):
    """Everything is read by Ray."""
    monkeypatch.setattr(pipeline, "OPENING_BLOCKS", 0)


def resolve(batch, steps):
    config = {"horizon": batch * steps * SEQ_LEN, "lr": 1.0, "batch": batch}
    return Schedule.resolve(ScheduleSection.model_validate(config), SEQ_LEN)


def make(make_corpus, folder, layout, **more):
    manifest = make_corpus(folder, {"train": layout}, **more)
    return plan.open_corpus(str(folder), manifest, "train", SEQ_LEN, 3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_corpus):
    """About 200 samples in shards of many sizes."""
    layout = [[100] * 10, [7, 60] * 10, [5], [1500]]
    return make(make_corpus, tmp_path_factory.mktemp("corpus"), layout)


def both(corpus, schedule, cursor, rank, world_size):
    """The batches of one rank by way of Ray and in this process."""
    where = {"cursor": cursor, "rank": rank, "world_size": world_size}
    return (
        list(pipeline.stream(corpus, schedule, **where)),
        list(plan.local_stream(corpus, schedule, **where)),
    )


def assert_same(batches, expected):
    assert [batch.step for batch in batches] == [batch.step for batch in expected]
    for one, other in zip(batches, expected, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.samples["tokens"].dtype == other.samples["tokens"].dtype
        assert np.array_equal(one.samples["tokens"], other.samples["tokens"])
        assert one.samples["starts"].tolist() == other.samples["starts"].tolist()


# The same rows as without Ray.


@pytest.mark.parametrize("first_step", [0, 43])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_rows_are_those_of_the_local_stream(corpus, world_size, first_step):
    schedule = resolve(7, 90)
    assert schedule.positions > 2 * plan.order_of(corpus).num_samples
    for rank in range(world_size):
        blocks = list(plan.blocks(schedule, 7 * first_step, rank, world_size))
        assert len(blocks) > 2 + 2, "more than two windows"
        got, expected = both(corpus, schedule, 7 * first_step, rank, world_size)
        assert len(got) == schedule.steps - first_step
        assert_same(got, expected)


def test_ranks_without_rows_take_part_in_every_step(corpus):
    """Five ranks, two rows a step: some blocks, some windows, some whole streams are empty."""
    schedule = resolve(2, 60)
    rows = []
    for rank in range(5):
        got, expected = both(corpus, schedule, 0, rank, 5)
        assert_same(got, expected)
        assert len(got) == 60
        rows.append(sum(len(batch.ids) for batch in got))
    assert rows == [0, 0, 60, 0, 60]


def test_blocks_with_and_without_rows_may_alternate(corpus):
    """A batch that swings between 1 and 3: the first rank of two has no row of a batch of 1."""
    levels = [{"from": size, "tokens": 16 * size * SEQ_LEN} for size in (1, 3, 1, 3)]
    config = {"horizon": 16 * 8 * SEQ_LEN, "lr": 1.0, "batch": levels}
    schedule = Schedule.resolve(ScheduleSection.model_validate(config), SEQ_LEN)
    filled = [block.rows > 0 for block in plan.blocks(schedule, 0, 0, 2)]
    assert filled == [False, False, True, True, False, False, True, True]
    assert_same(*both(corpus, schedule, 0, 0, 2))


def test_wide_tokens(tmp_path, make_corpus):
    wide = make(make_corpus, tmp_path, [[300], [500]], vocab_size=100_000)
    got, expected = both(wide, resolve(7, 12), 0, 1, 2)
    assert got[0].samples["tokens"].dtype == np.uint32
    assert max(batch.samples["tokens"].max() for batch in got) > 2**16
    assert_same(got, expected)


def test_one_long_block_in_one_window(monkeypatch, corpus):
    monkeypatch.setattr(plan, "BLOCK_STEPS", 1024)
    monkeypatch.setattr(plan, "BLOCK_TOKENS", 2**22)
    got, expected = both(corpus, resolve(7, 40), 0, 0, 1)
    assert len({batch.step.step for batch in got}) == 40
    assert_same(got, expected)


def test_nothing_is_left_at_the_end_of_the_run(corpus):
    schedule = resolve(7, 10)
    assert both(corpus, schedule, schedule.positions, 0, 2) == ([], [])


@pytest.mark.usefixtures("without_head")
def test_order_is_the_plans_when_tasks_finish_in_another(monkeypatch, tmp_path, corpus):
    """The first of eight blocks can be read only once the last one has been."""
    monkeypatch.setattr(pipeline, "FIRST_WINDOW", 8)
    gate, log = tmp_path / "gate", tmp_path / "log"
    os.mkfifo(gate)
    schedule = resolve(7, 60)
    window = [block.spans for block in islice(plan.blocks(schedule, 0, 0, 1), 8)]

    def read(corpus, spans):
        table = plan.read_rows(corpus, plan.positions_of(spans))
        if spans in window:
            # Opening a FIFO waits for the other end: the first and the last task meet here.
            if spans in (window[0], window[-1]):
                with open(gate, "rb" if spans == window[0] else "wb"):
                    pass
            with log.open("a") as file:
                file.write(f"{window.index(spans)} ")
        return [table]

    monkeypatch.setattr(pipeline, "_read", read)
    got, expected = both(corpus, schedule, 0, 0, 1)
    order = log.read_text().split()
    assert order[:6] == ["1", "2", "3", "4", "5", "6"]
    assert sorted(order[6:]) == ["0", "7"]
    assert_same(got, expected)


# Wrong rows.


@pytest.mark.usefixtures("without_head")
def test_tampered_order_is_caught(monkeypatch, corpus):
    """Two rows of a late block change places, in this process and on the way through Ray."""
    schedule = resolve(7, 60)
    *_, spoiled = islice(plan.blocks(schedule, 0, 1, 2), 9)
    honest = plan.read_rows

    def swapped(corpus, positions):
        table = honest(corpus, positions)
        rows = list(range(len(positions)))
        if positions[0] == spoiled.spans[0][0]:
            rows[3], rows[4] = rows[4], rows[3]
        return table.take(rows)

    message = rf"where the plan has \d+ \(row 3 of a block of {spoiled.rows}\)"
    good = spoiled.shares[0].step.step
    monkeypatch.setattr(plan, "read_rows", swapped)
    assert count_until_refused(plan.local_stream, corpus, schedule, message) == good

    def read(corpus, spans):
        return [swapped(corpus, plan.positions_of(spans))]

    monkeypatch.setattr(pipeline, "_read", read)
    assert count_until_refused(pipeline.stream, corpus, schedule, message) == good


def count_until_refused(stream, corpus, schedule, message):
    """How many steps arrive before the stream is refused."""
    steps = 0
    with pytest.raises(StreamError, match=message):  # noqa: PT012
        for batch in stream(corpus, schedule, cursor=0, rank=1, world_size=2):
            assert batch.step.step == steps
            steps += 1
    return steps


@pytest.mark.parametrize(
    ("deliver", "message"),
    [
        (lambda blocks: blocks[:-1], "Ray Data returned fewer blocks"),
        (lambda blocks: [*blocks, blocks[0]], "Ray Data returned more blocks"),
        (lambda blocks: blocks[::-1], r"where the plan has 0 \(row 0 of"),
        (lambda blocks: [blocks[0]] * len(blocks), r"position 0 where the plan has"),
    ],
    ids=["too few", "too many", "in another order", "the same again"],
)
@pytest.mark.usefixtures("without_head")
def test_wrong_blocks_are_caught(monkeypatch, corpus, deliver, message):
    honest = pipeline._dataset
    monkeypatch.setattr(
        pipeline,
        "_dataset",
        lambda corpus, blocks, *others: honest(corpus, deliver(blocks), *others),
    )
    with pytest.raises(StreamError, match=message):
        list(pipeline.stream(corpus, resolve(7, 30), cursor=0, rank=0, world_size=1))


# Damage.


def damaged(tmp_path, make_corpus, damage):
    corpus = make(make_corpus, tmp_path, [[1000], [1000], [1000]])
    path = tmp_path / "train-00001.arrow"
    damage(path)
    return corpus, path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "can't be read: No such file"),
        (lambda path: path.write_bytes(b"x"), "1 bytes, but the manifest says"),
    ],
    ids=["missing", "truncated"],
)
def test_damaged_shard_is_named(tmp_path, make_corpus, capfd, damage, message):
    """As an error of ours with nothing but the message, and without a word of Ray's."""
    corpus, path = damaged(tmp_path, make_corpus, damage)
    with pytest.raises(CorpusError) as caught:
        list(pipeline.stream(corpus, resolve(7, 40), cursor=0, rank=0, world_size=1))
    assert type(caught.value) is CorpusError
    assert str(caught.value).startswith(f"{path}: {message}")
    assert len(str(caught.value).splitlines()) == 1
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert "ERROR" not in printed


def test_batches_before_the_damage_arrive(tmp_path, make_corpus):
    corpus, path = damaged(tmp_path, make_corpus, lambda path: path.unlink())
    schedule = resolve(1, 200)
    order = plan.order_of(corpus)
    # Samples of which no token lies in the second shard.
    sound = [sample * SEQ_LEN < 1000 - SEQ_LEN or sample * SEQ_LEN >= 2000 for sample in range(187)]
    steps = 0
    with pytest.raises(CorpusError, match=str(path)):  # noqa: PT012
        for batch in pipeline.stream(corpus, schedule, cursor=0, rank=0, world_size=1):
            assert sound[batch.ids[0]]
            steps += 1
    wrong = next(p for p, sample in enumerate(order.ids(0, 187).tolist()) if not sound[sample])
    assert steps == wrong // 8 * 8, "whole blocks of eight steps up to the first bad one"


def test_corpus_prepared_anew_is_refused(tmp_path, make_corpus):
    make(make_corpus, tmp_path, [[1000]])
    old = plan.Corpus(str(tmp_path), "another", "train", Tokens("uint16"), SEQ_LEN, 0)
    with pytest.raises(StreamError, match="prepared anew since"):
        list(pipeline.stream(old, resolve(7, 10), cursor=0, rank=0, world_size=1))


@pytest.mark.usefixtures("without_head")
def test_defect_of_ours_keeps_its_traceback(monkeypatch, corpus):
    def read(corpus, spans):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(pipeline, "_read", read)
    with pytest.raises(ZeroDivisionError, match=r"(?s)Traceback.*a defect|in read.*a defect"):
        list(pipeline.stream(corpus, resolve(7, 10), cursor=0, rank=0, world_size=1))


# At rest.


@pytest.mark.usefixtures("without_head")
def test_a_stream_that_nobody_reads_on_comes_to_rest(monkeypatch, corpus):
    """And goes on afterwards, although Ray Data would have given up after so long."""
    looks, rests = [], threading.Event()

    class Watched(Pace):
        def on_execution_step(self, executor):
            looks.append(self._pause)
            if self._pause >= 100 * SHORTEST:
                rests.set()
            super().on_execution_step(executor)

    monkeypatch.setattr(pipeline, "Pace", Watched)
    monkeypatch.setattr(pipeline, "FIRST_WINDOW", 16)
    monkeypatch.setattr(pipeline, "AHEAD_BYTES", 2**11)
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 1e-3)
    schedule = resolve(7, 200)
    batches = pipeline.stream(corpus, schedule, cursor=0, rank=0, world_size=1)
    got = [next(batches)]
    assert rests.wait(300), "it looks for work all the time"
    longer = [after for before, after in pairwise(looks) if after > before]
    assert len(longer) >= 6
    got += batches
    assert len(got) == 200
    expected = list(plan.local_stream(corpus, schedule, cursor=0, rank=0, world_size=1))
    assert_same(got, expected)


# Closing.


def settled(threads):
    """The threads that live beyond `threads`, after each has had its time to end.

    Without threads of Ray's C++, which Python knows as dummies once they have called back, and
    which nobody can wait for.
    """
    others = set(threading.enumerate()) - threads
    others = {thread for thread in others if not thread.name.startswith("Dummy-")}
    for thread in others:
        thread.join(timeout=300)
    return [thread.name for thread in others if thread.is_alive()]


@pytest.fixture
def threads(corpus):
    """The threads that there are when Ray Data has been used once."""
    list(pipeline.stream(corpus, resolve(7, 8), cursor=0, rank=0, world_size=1))
    return set(threading.enumerate())


@pytest.mark.parametrize("steps", [0, 1, 3, 10, 30, 90])
def test_closing_leaves_no_thread(corpus, threads, steps):
    """Closed before its first batch, within any window, at the end of the run."""
    batches = pipeline.stream(corpus, resolve(7, 90), cursor=0, rank=0, world_size=1)
    assert len(list(islice(batches, steps))) == steps
    batches.close()
    assert settled(threads) == []
    assert next(batches, None) is None


def test_failing_leaves_no_thread(tmp_path, make_corpus, threads):
    corpus, _ = damaged(tmp_path, make_corpus, lambda path: path.unlink())
    with pytest.raises(CorpusError) as caught:
        list(pipeline.stream(corpus, resolve(7, 40), cursor=0, rank=0, world_size=1))
    # Although the error is kept, and with it the frames that it went through.
    assert caught.value.__traceback__ is not None
    assert settled(threads) == []


@pytest.mark.parametrize(
    ("window", "bad", "free"),
    [(40, None, 2), (40, 0, 2), (8, 5, 9)],
    ids=["closed", "failed", "failed with the next window begun"],
)
@pytest.mark.usefixtures("without_head")
def test_closing_and_failing_stop_the_reading(
    monkeypatch, tmp_path, corpus, threads, window, bad, free
):
    """All blocks after the first few wait at a gate; a bad block has rows in another order."""
    monkeypatch.setattr(pipeline, "FIRST_WINDOW", window)
    monkeypatch.setattr(pipeline, "LARGEST_WINDOW", 40)
    gate, log = tmp_path / "gate", tmp_path / "log"
    schedule = resolve(7, 300)
    spans_of = [block.spans for block in plan.blocks(schedule, 0, 0, 1)]

    def read(corpus, spans):
        index = spans_of.index(spans)
        with log.open("a") as file:
            file.write("read ")
        while index >= free and not gate.exists():
            time.sleep(0.01)
        table = plan.read_rows(corpus, plan.positions_of(spans))
        return [table if index != bad else table.take(list(range(table.num_rows))[::-1])]

    monkeypatch.setattr(pipeline, "_read", read)
    batches = pipeline.stream(corpus, schedule, cursor=0, rank=0, world_size=1)
    kept = None
    if bad is None:
        assert next(batches).step.step == 0
        batches.close()
    else:
        with pytest.raises(StreamError) as kept:
            list(batches)
    # Had it been left open, it would wait for its blocks for as long as the gate is shut.
    assert settled(threads) == []
    assert bad is None or kept.value.__traceback__, "as a log would keep it, frames and all"
    gate.touch()
    monkeypatch.undo()
    got, expected = both(corpus, schedule, 0, 0, 1)
    assert_same(got, expected)
    assert len(log.read_text().split()) <= free + pipeline.READERS


# Ray's resources and words.


def test_training_that_holds_every_cpu_does_not_starve_it(corpus):
    """Two actors on the two CPUs; each reads its rank's stream, at the same time."""
    import ray

    schedule = resolve(7, 60)

    @ray.remote(num_cpus=1)
    class Rank:
        def free_cpus(self):
            return ray.available_resources().get("CPU", 0)

        def ids(self, rank):
            stream = pipeline.stream(corpus, schedule, cursor=0, rank=rank, world_size=2)
            return [batch.ids.tolist() for batch in stream]

    ranks = [Rank.remote(), Rank.remote()]
    ray.get([rank.__ray_ready__.remote() for rank in ranks])
    got = ray.get([actor.ids.remote(rank) for rank, actor in enumerate(ranks)], timeout=300)
    for actor in ranks:
        ray.kill(actor)
    for rank, ids in enumerate(got):
        local = plan.local_stream(corpus, schedule, cursor=0, rank=rank, world_size=2)
        assert ids == [batch.ids.tolist() for batch in local]


def test_streams_of_one_process_do_not_disturb_each_other(corpus):
    schedule = resolve(7, 60)
    with ThreadPoolExecutor(3) as threads:
        for got, expected in threads.map(lambda rank: both(corpus, schedule, 0, rank, 3), range(3)):
            assert_same(got, expected)


def test_ray_data_has_nothing_to_say(monkeypatch, corpus, caplog):
    """No warning by Python's means or by Ray's log, in a run with windows of all sizes."""
    from ray.util.annotations import RayDeprecationWarning

    monkeypatch.setattr("ray.util.debug._logged", set())  # what it says once, it may say again
    heard = caplog.handler
    logging.getLogger("ray.data").addHandler(heard)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for steps in (3, 7, 90):  # windows of one block, too
                list(pipeline.stream(corpus, resolve(7, steps), cursor=0, rank=0, world_size=1))
    finally:
        logging.getLogger("ray.data").removeHandler(heard)
    # Ray Data sets its own deprecated settings when it makes its context: not of our use.
    ours = [w for w in caught if issubclass(w.category, UserWarning | RayDeprecationWarning)]
    assert [str(warning.message) for warning in ours] == []
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert logging.getLogger("ray.data").isEnabledFor(logging.WARNING)


def test_many_windows_are_two_datasets_to_the_metrics_of_ray(corpus):
    """Which are kept for each id that there ever was."""
    import ray
    from ray.data._internal.stats import get_or_create_stats_actor

    actor = get_or_create_stats_actor()
    before = ray.get(actor.get_datasets.remote()).keys()
    list(pipeline.stream(corpus, resolve(7, 300), cursor=0, rank=0, world_size=1))
    assert len(ray.get(actor.get_datasets.remote()).keys() - before) == 2


def test_settings_of_other_datasets_are_left_alone(corpus):
    from ray.data import DataContext

    before = DataContext.get_current().copy()
    list(pipeline.stream(corpus, resolve(7, 8), cursor=0, rank=0, world_size=1))
    after = DataContext.get_current()
    for name in ("enable_progress_bars", "print_on_execution_start", "target_max_block_size"):
        assert getattr(after, name) == getattr(before, name)
    assert after.execution_options == before.execution_options

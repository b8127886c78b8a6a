"""The plan: at each step, the ranks share out exactly the step's positions, at any world size."""

import subprocess
import sys
from collections import Counter
from itertools import chain, islice, pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.config.errors import CorpusError, RunError, StreamError
from manta.config.schedule import ScheduleSection
from manta.sample.tokens import Tokens, position_ids
from manta.schedule import Schedule
from manta.stream import plan

SEQ_LEN = 8
any_machine = settings(deadline=None)
RAMP = [
    {"shape": "linear", "from": 1, "to": 9, "until": "50%"},
    {"shape": "cyclic", "from": 7, "to": 2, "period": 400},
]


def resolve(batch, samples, seq_len=SEQ_LEN):
    """A schedule over `samples` samples."""
    config = {"horizon": samples * seq_len, "lr": 1.0, "batch": batch}
    return Schedule.resolve(ScheduleSection.model_validate(config), seq_len)


@st.composite
def schedules(draw):
    """Schedules in which the batch size changes often."""
    sizes = st.integers(1, 40)
    segments = [
        {"shape": shape, "from": draw(sizes), "to": draw(sizes), "until": until}
        for shape, until in [("linear", "30%"), ("cosine", "60%"), ("exponential", None)]
    ]
    return resolve(segments, draw(st.integers(1, 2000)), draw(st.sampled_from([1, 8, 100])))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_corpus):
    """37 samples of 8 tokens in three shards."""
    folder = tmp_path_factory.mktemp("plan")
    manifest = make_corpus(folder, {"train": [[50, 50], [3] * 30, [108]]})
    return plan.open_corpus(str(folder), manifest, "train", SEQ_LEN, 5)


def read(corpus, schedule, world_size, cursor=0):
    """For each step, the batches of all ranks."""
    streams = [
        plan.local_stream(corpus, schedule, cursor=cursor, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    return list(zip(*streams, strict=True))


# Shares.


@any_machine
@given(schedules(), st.integers(1, 70), st.data())
def test_shares_partition_the_step(schedule, world_size, data):
    step = schedule.step(data.draw(st.integers(0, schedule.steps - 1)))
    shares = [plan.share(step, rank, world_size) for rank in range(world_size)]
    ends = [step.first_position, *(share.end for share in shares)]
    assert [share.first for share in shares] == ends[:-1]
    assert ends[-1] == step.first_position + step.batch_size
    counts = {share.end - share.first for share in shares}
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 0


def test_more_ranks_than_rows_leave_some_without():
    step = resolve(2, 10).step(3)
    shares = [plan.share(step, rank, 5) for rank in range(5)]
    assert [share.end - share.first for share in shares] == [0, 0, 1, 0, 1]
    assert [(share.first, share.end) for share in shares if share.end > share.first] == [
        (6, 7),
        (7, 8),
    ]


# Blocks.


@any_machine
@given(schedules(), st.integers(1, 50), st.integers(1, 4000), st.data())
def test_blocks_cover_the_run_from_any_cursor(schedule, world_size, block_tokens, data):
    first = data.draw(st.integers(0, schedule.steps - 1))
    rank = data.draw(st.integers(0, world_size - 1))
    cursor = schedule.step(first).first_position
    blocks = list(plan.blocks(schedule, cursor, rank, world_size, block_tokens))
    shares = list(chain.from_iterable(block.shares for block in blocks))
    assert shares == [
        plan.share(schedule.step(number), rank, world_size)
        for number in range(first, schedule.steps)
    ]
    for block in blocks:
        positions = [p for share in block.shares for p in range(share.first, share.end)]
        assert block.rows == len(positions)
        assert [p for span in block.spans for p in range(*span)] == positions
        # A block is full with its last step, not before.
        last = block.shares[-1]
        before = (block.rows - (last.end - last.first)) * schedule.seq_len
        assert before < block_tokens
        full = block.rows * schedule.seq_len >= block_tokens
        assert full or len(block.shares) == plan.BLOCK_STEPS or block is blocks[-1]


def test_block_of_a_rank_without_rows_ends_after_so_many_steps():
    schedule = resolve(1, 3000)
    blocks = list(plan.blocks(schedule, 0, 0, 2))
    assert [len(block.shares) for block in blocks] == [1024, 1024, 952]
    assert [(block.rows, block.spans) for block in blocks] == [(0, [])] * 3


def test_no_blocks_at_the_end_of_the_run():
    schedule = resolve(7, 100)
    assert schedule.positions == 105
    assert list(plan.blocks(schedule, 105, 0, 2)) == []
    assert [block.rows for block in plan.blocks(schedule, 98, 0, 1)] == [7]


@pytest.mark.parametrize("cursor", [1, 6, 8, 104])
def test_cursor_within_a_step_is_refused(cursor):
    with pytest.raises(RunError, match=f"no step of this schedule begins at position {cursor}"):
        next(plan.blocks(resolve(7, 100), cursor, 0, 2))


@pytest.mark.parametrize(
    "batch",
    [96, {"name": "ramp", "from": 8, "to": 96, "start": "10%", "over": "80%"}],
    ids=["constant", "changing"],
)
def test_planning_costs_the_same_anywhere_in_a_long_run(monkeypatch, batch):
    """Ten million steps: what is looked at depends on the blocks asked for, not on the place."""
    schedule = resolve(batch, 10_000_000 * 96, seq_len=1024)
    assert schedule.steps >= 10_000_000
    asked = []
    step = Schedule.step

    def counted(self, number):
        asked.append(number)
        return step(self, number)

    monkeypatch.setattr(Schedule, "step", counted)
    costs = []
    for first in (0, schedule.steps // 2, schedule.steps - 100_000):
        cursor = step(schedule, first).first_position
        asked.clear()
        blocks = list(islice(plan.blocks(schedule, cursor, 1, 3), 2))
        steps = sum(len(block.shares) for block in blocks)
        costs.append(len(asked) - steps)
        assert asked[-1] == first + steps - 1
    assert max(costs) <= 1  # the step at the cursor, looked up once


# Cutting: what arrives is what the plan says, or nothing is trained on it.


@pytest.fixture(scope="module")
def block(corpus):
    (block,) = plan.blocks(resolve(RAMP, 60), 0, 1, 3)
    assert block.rows > 15
    return block


@pytest.fixture(scope="module")
def table(corpus, block):
    return plan.read_rows(corpus, plan.positions_of(block.spans))


def test_rows_as_planned_are_cut_into_steps(corpus, block, table):
    batches = list(plan.cut(block, table))
    assert [batch.step for batch in batches] == [share.step for share in block.shares]
    assert [len(batch.ids) for batch in batches] == [s.end - s.first for s in block.shares]
    ids = np.concatenate([batch.ids for batch in batches])
    assert np.array_equal(ids, plan.order_of(corpus).ids_at(plan.positions_of(block.spans)))


def test_rows_may_come_in_chunks(block, table):
    pieces = pa.concat_tables([table.slice(0, 4), table.slice(4, 1), table.slice(5)])
    assert pieces.column("tokens").num_chunks == 3
    for whole, cut in zip(plan.cut(block, table), plan.cut(block, pieces), strict=True):
        assert_same_batch(whole, cut)


def rows_of(table, rows):
    return table.take(pa.array(rows, pa.int64()))


def without(rows, index):
    return [*rows[:index], *rows[index + 1 :]]


def swapped(rows, index):
    return [*rows[:index], rows[index + 1], rows[index], *rows[index + 2 :]]


@any_machine
@given(data=st.data())
@pytest.mark.parametrize("change", ["missing", "repeated", "swapped", "foreign", "none", "extra"])
def test_any_other_rows_are_refused(block, table, data, change):
    rows = list(range(block.rows))
    index = data.draw(st.integers(0, len(rows) - 2))
    delivered = {
        "missing": without(rows, index),
        "repeated": [*rows[:index], rows[index], *rows[index:]],
        "swapped": swapped(rows, index),
        "foreign": [*rows[:index], rows[-1], *rows[index + 1 :]],
        "none": [],
        "extra": [*rows, index],
    }[change]
    with pytest.raises(StreamError, match="nothing was trained on it"):
        next(plan.cut(block, rows_of(table, delivered)))


def test_refusal_names_the_first_wrong_place(block, table):
    positions = plan.positions_of(block.spans)
    rows = list(range(block.rows))
    for delivered, message in [
        (swapped(rows, 2), f"position {positions[3]} where the plan has {positions[2]} (row 2 of"),
        (rows[:-1], f"position nothing where the plan has {positions[-1]} (row {len(rows) - 1} of"),
        ([*rows, 0], f"position {positions[0]} where the plan has no more rows (row {len(rows)} "),
    ]:
        with pytest.raises(StreamError) as caught:
            list(plan.cut(block, rows_of(table, delivered)))
        assert message in str(caught.value)


def test_rows_for_a_block_without_any_are_refused(corpus, table):
    (idle,) = plan.blocks(resolve(1, 3), 0, 0, 2)
    assert [batch.samples["tokens"].shape for batch in plan.cut(idle, plan.no_rows(corpus))] == [
        (0, SEQ_LEN)
    ] * 3
    with pytest.raises(StreamError, match="the plan has no more rows"):
        list(plan.cut(idle, table.slice(0, 1)))


# The local stream.


def assert_same_batch(one, other):
    assert one.step == other.step
    assert one.ids.tolist() == other.ids.tolist()
    assert np.array_equal(one.samples["tokens"], other.samples["tokens"])
    assert one.samples["starts"].tolist() == other.samples["starts"].tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_each_step_consumes_exactly_its_positions(monkeypatch, corpus, world_size):
    """Batch sizes that change, 1 to 9, more ranks than rows at times, five epochs and a half."""
    monkeypatch.setattr(plan, "BLOCK_TOKENS", SEQ_LEN * 11)
    schedule = resolve(RAMP, 200)
    order, reader = plan.order_of(corpus), plan.reader_of(corpus)
    assert schedule.positions > 5 * order.num_samples
    steps = read(corpus, schedule, world_size)
    assert len(steps) == schedule.steps
    assert len({ranks[0].step.batch_size for ranks in steps}) > 4
    for number, ranks in enumerate(steps):
        step = schedule.step(number)
        assert {batch.step for batch in ranks} == {step}
        first, end = step.first_position, step.first_position + step.batch_size
        ids = np.concatenate([batch.ids for batch in ranks])
        assert Counter(ids.tolist()) == Counter(order.ids(first, end).tolist())
        for batch in ranks:
            expected = reader.read(batch.ids)
            assert np.array_equal(batch.samples["tokens"], expected["tokens"])
            assert batch.samples["starts"].tolist() == expected["starts"].tolist()
            assert np.array_equal(position_ids(batch.samples), position_ids(expected))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_stream_from_the_middle_is_the_rest_of_the_stream(corpus, data):
    """Whatever the world size was before, and however the rest is cut into blocks."""
    schedule = resolve(RAMP, 200)
    first = data.draw(st.integers(0, schedule.steps))
    before, after = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    cursor = schedule.step(first).first_position if first < schedule.steps else schedule.positions
    steps = [
        *islice(read(corpus, schedule, before), first),
        *read(corpus, schedule, after, cursor),
    ]
    ids = [np.concatenate([batch.ids for batch in ranks]).tolist() for ranks in steps]
    once = plan.order_of(corpus).ids(0, schedule.positions).tolist()
    assert list(chain.from_iterable(ids)) == once
    assert [ranks[0].step.step for ranks in steps] == list(range(schedule.steps))


def test_epochs_hold_every_sample_once_and_differ(corpus):
    schedule = resolve(1, 3 * 37)
    (ids,) = [[int(batch.ids[0]) for (batch,) in read(corpus, schedule, 1)]]
    epochs = [ids[start : start + 37] for start in (0, 37, 74)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(37))
    for one, other in pairwise(epochs):
        assert one != other


def test_seed_and_split_change_the_order(tmp_path, make_corpus):
    manifest = make_corpus(tmp_path, {"train": [[400]], "validation": [[400]]})
    named = [
        plan.open_corpus(str(tmp_path), manifest, split, SEQ_LEN, seed)
        for split, seed in [("train", 0), ("train", 1), ("validation", 0)]
    ]
    orders = [tuple(plan.order_of(corpus).ids(0, 50)) for corpus in named]
    assert len(set(orders)) == 3


# The corpus behind it.


def test_corpus_prepared_anew_in_the_meantime_is_refused(tmp_path, make_corpus):
    manifest = make_corpus(tmp_path, {"train": [[100]]})
    old = plan.Corpus(str(tmp_path), manifest.fingerprint, "train", Tokens("uint16"), SEQ_LEN, 0)
    renewed = make_corpus(tmp_path, {"train": [[100]]}, seed=1)
    assert renewed.fingerprint != manifest.fingerprint
    with pytest.raises(StreamError, match="it was prepared anew since"):
        plan.reader_of(old)


def test_corpus_without_a_sample_is_refused_when_opened(tmp_path, make_corpus):
    manifest = make_corpus(tmp_path, {"train": [[7]]})
    with pytest.raises(CorpusError, match="fewer than one sample"):
        plan.open_corpus(str(tmp_path), manifest, "train", SEQ_LEN, 0)


def test_planning_needs_neither_ray_nor_torch():
    code = "import manta.stream.plan, sys; print([m for m in ('ray', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "[]\n", done.stderr

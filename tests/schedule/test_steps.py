"""Laws of the closed form: it is the walk over steps, without the walk."""

import math
import sys
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.config import MantaError
from manta.config.errors import RunError
from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule, Segment

SHAPES = ("constant", "linear", "cosine", "1-sqrt", "exponential", "cyclic", "power")


def resolve(lr=1.0, batch=1, horizon=10_000, seq_len=1):
    config = {"horizon": horizon, "lr": lr, "batch": batch}
    return Schedule.resolve(ScheduleSection.model_validate(config), seq_len)


@st.composite
def written_segments(draw, value, horizon, **more):
    """A list of segments as a user writes them, filling the horizon."""
    count = draw(st.integers(1, 4))
    ends = sorted(draw(st.lists(st.integers(0, horizon), min_size=count - 1, max_size=count - 1)))
    segments = []
    for start, end in pairwise([0, *ends, None]):
        shape = draw(st.sampled_from(SHAPES if start else SHAPES[:-1]))
        segment = {"shape": shape, "from": draw(value), "until": end}
        segment.update({key: draw(strategy) for key, strategy in more.items()})
        if shape == "power":
            segment["exponent"] = draw(st.floats(0.01, 2))
        elif shape != "constant":
            segment["to"] = draw(value)
        if shape == "cyclic":
            segment["period"] = draw(st.integers(1, max(1, horizon // 2)))
        segments.append(segment)
    return segments


@st.composite
def schedules(draw):
    horizon = draw(st.integers(1, 20_000))
    lr = draw(written_segments(st.floats(1e-5, 1.0), horizon))
    sizes = st.integers(1, 40)
    batch = draw(written_segments(sizes, horizon, multiple_of=st.sampled_from([1, 1, 2, 8])))
    seq_len = draw(st.sampled_from([1, 2, 7, 64, 1000]))
    return resolve(lr, batch, horizon, seq_len)


def naive_value(segment: Segment, tokens: float) -> float:
    """The definition of each shape, written a second time and differently."""
    first, last, offset = segment.first, segment.last, tokens - segment.start
    x = offset / (segment.end - segment.start)
    if segment.shape == "cyclic":
        phase = offset % segment.period / segment.period
        x = 2 * phase if phase <= 0.5 else 2 - 2 * phase
    share_left = {
        "constant": 1.0,
        "linear": 1 - x,
        "cyclic": 1 - x,
        "cosine": (1 + math.cos(math.pi * x)) / 2,
        "1-sqrt": 1 - math.sqrt(x),
    }
    if segment.shape == "power":
        return first * math.exp(-segment.exponent * (math.log(tokens) - math.log(segment.start)))
    if segment.shape == "exponential":
        return math.exp(math.log(first) * (1 - x) + math.log(last) * x)
    return last + (first - last) * share_left[segment.shape]


def naive_at(segments: tuple[Segment, ...], tokens: float) -> float:
    (segment,) = (s for s in segments if s.start <= tokens < s.end)
    return naive_value(segment, tokens)


def naive_batch(schedule: Schedule, tokens: int) -> int:
    (segment,) = (s for s in schedule.batch_segments if s.start <= tokens < s.end)
    multiple = segment.multiple_of
    # A size that the definition reaches to within 1e-9 counts as reached.
    return multiple * max(1, math.floor(naive_value(segment, tokens) / multiple + 1e-9))


@settings(max_examples=80, deadline=None)
@given(schedules())
def test_the_walk_over_steps_equals_the_closed_form(schedule):
    step = position = 0
    while (tokens := position * schedule.seq_len) < schedule.horizon:
        batch = naive_batch(schedule, tokens)
        after = tokens + batch * schedule.seq_len
        got = schedule.step(step)
        assert (got.step, got.first_position, got.batch_size) == (step, position, batch)
        assert (got.tokens, got.tokens_after) == (tokens, after)
        middle = (tokens + min(after, schedule.horizon)) / 2
        assert got.lr == pytest.approx(naive_at(schedule.lr_segments, middle), rel=1e-9)
        position += batch
        step += 1
        if step > 400:  # enough of a long run; the end is tested below
            return
    assert (step, position) == (schedule.steps, schedule.positions)


@settings(max_examples=100, deadline=None)
@given(schedules(), st.data())
def test_steps_follow_each_other_and_positions_lead_back_to_them(schedule, data):
    k = data.draw(st.integers(0, schedule.steps - 1))
    step = schedule.step(k)
    assert schedule.step_at(step.first_position) == step
    assert schedule.batch_size(step.tokens) == step.batch_size
    assert step.tokens < schedule.horizon
    end = step.first_position + step.batch_size
    assert step.tokens_after == end * schedule.seq_len
    if k + 1 < schedule.steps:
        assert schedule.step(k + 1).first_position == end
    else:
        assert end == schedule.positions
        assert end * schedule.seq_len >= schedule.horizon
    inside = data.draw(st.integers(0, step.batch_size - 1))
    if inside:
        with pytest.raises(RunError, match="no step of this schedule begins"):
            schedule.step_at(step.first_position + inside)


@settings(max_examples=100, deadline=None)
@given(schedules())
def test_segments_cover_the_horizon_and_plateaus_the_run(schedule):
    for segments in (schedule.lr_segments, schedule.batch_segments):
        assert segments[0].start == 0
        assert segments[-1].end == schedule.horizon
        assert all(a.end == b.start for a, b in pairwise(segments))
        assert all(s.start < s.end for s in segments)
    for before, after in pairwise(schedule.levels):
        assert before.tokens < after.tokens < schedule.horizon
        assert before.batch != after.batch
    plateaus = schedule.plateaus
    assert (plateaus[0].step, plateaus[0].position) == (0, 0)
    for before, after in pairwise(plateaus):
        assert (before.end_step, before.end_position) == (after.step, after.position)
        assert before.batch != after.batch
        assert before.steps > 0


@settings(max_examples=100, deadline=None)
@given(schedules(), st.data())
def test_lr_stays_within_the_ends_of_its_segment(schedule, data):
    index = data.draw(st.integers(0, len(schedule.lr_segments) - 1))
    segment = schedule.lr_segments[index]
    tokens = data.draw(st.floats(segment.start, segment.end, exclude_max=True))
    low, high = sorted((segment.first, segment.last))
    assert low <= schedule.lr(tokens) <= high
    assert schedule.lr(np.array([tokens]))[0] == pytest.approx(schedule.lr(tokens), rel=1e-14)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 5000), st.sampled_from([1, 2, 8, 32])
)
def test_a_linear_ramp_is_exact(low, high, over, multiple):
    """Against rational arithmetic: float error moves no boundary by a token."""
    ramp = {"name": "ramp", "from": low, "to": high, "over": over, "multiple_of": multiple}
    schedule = resolve(batch=ramp)
    for tokens in range(over):
        value = low + Fraction((high - low) * tokens, over)
        assert schedule.batch_size(tokens) == multiple * max(1, value // multiple)


def test_the_first_and_the_last_step_are_not_wasted():
    lr = {"name": "wsd", "peak": 1, "warmup": 100, "decay": 100, "decay_shape": "linear"}
    schedule = resolve(lr, batch=10, horizon=1000)
    assert schedule.step(0).lr == pytest.approx(0.05)
    assert schedule.step(99).lr == pytest.approx(0.05)
    # Of 1001 tokens, the last batch of 10 lies all but one behind the horizon.
    assert resolve(lr, batch=10, horizon=1001).step(100).lr > 0


@pytest.mark.parametrize("batch", [1, 5, 20, [{"from": 5, "tokens": 300}, {"from": 20}]])
def test_the_sum_of_rates_does_not_depend_on_the_batch_size(batch):
    lr = {"name": "wsd", "peak": 1, "warmup": 100, "decay": 200, "decay_shape": "linear"}
    schedule = resolve(lr, batch, horizon=1000)
    steps = [schedule.step(k) for k in range(schedule.steps)]
    assert sum(s.lr * s.batch_size for s in steps) == pytest.approx(850)


def test_a_step_that_jumps_over_a_segment_takes_the_next():
    batch = [{"from": 100, "tokens": 10}, {"from": 3, "tokens": 20}, {"from": 7}]
    schedule = resolve(batch=batch, horizon=114)
    assert [schedule.step(k).batch_size for k in range(schedule.steps)] == [100, 7, 7]
    assert schedule.positions == 114


def test_a_batch_beyond_the_horizon_is_one_step():
    schedule = resolve(batch=64, horizon=10, seq_len=8)
    assert (schedule.steps, schedule.positions, schedule.step(0).tokens_after) == (1, 64, 512)


@pytest.mark.parametrize("k", [-1, 100, 10**12])
def test_steps_outside_the_run_are_refused(k):
    with pytest.raises(IndexError, match="of a run of 100 steps"):
        resolve(batch=10, horizon=1000).step(k)


@pytest.mark.parametrize("position", [-10, -1, 1, 999, 1000, 1010])
def test_positions_at_which_no_step_begins_are_refused(position):
    with pytest.raises(MantaError, match=rf"begins at position {position}:"):
        resolve(batch=10, horizon=1000).step_at(position)


WSD = {"name": "wsd", "peak": 1e-3, "warmup": "1%", "decay": "20%"}
HUGE = {
    "constant": 1,
    "ramp": {"name": "ramp", "from": 8, "to": 4096, "over": "50%", "shape": "cosine"},
    "cyclic": [{"shape": "cyclic", "from": 8, "to": 64, "period": "20B"}],
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_horizon_costs_no_more_than_a_small_one(name):
    calls = _calls(lambda: resolve(WSD, HUGE[name], horizon=10**13))
    assert calls < 500_000  # a call for each of 10^10 steps or more would not come back
    schedule = resolve(WSD, HUGE[name], horizon=10**13)
    last = schedule.steps - 1
    assert _calls(lambda: schedule.step(last)) < 100
    assert _calls(lambda: schedule.step_at(schedule.step(last).first_position)) < 200
    assert schedule.step(last).tokens < 10**13 <= schedule.step(last).tokens_after


def _calls(work) -> int:
    """How many functions, of Python or C, `work` calls."""
    count = 0

    def on_event(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count

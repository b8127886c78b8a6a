"""Seesaw is cosine in steps: half of each halving by the rate, the other half by the batch size."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule
from manta.schedule.draw import draw_terminal

HORIZON = 9_000_000


def resolve(lr, batch, horizon=HORIZON):
    section = {"horizon": horizon, "lr": lr, "batch": batch}
    return Schedule.resolve(ScheduleSection.model_validate(section), seq_len=100)


def seesaw(to=64, start=8, horizon=HORIZON, **keys):
    lr = {"name": "seesaw", "peak": 0.5, **keys}
    return resolve(lr, {"name": "seesaw", "from": start, "to": to}, horizon)


def test_the_batch_doubles_where_the_cosine_halves():
    """A cosine from 0 is at a half in the middle of its way, and at a quarter after two thirds."""
    found = seesaw(to=40)
    assert [(level.tokens, level.batch) for level in found.levels] == [
        (0, 8),
        (4_500_000, 16),
        (6_000_000, 32),
    ]
    assert found.lr(4_499_999) == 0.5
    assert found.lr(4_500_000) == pytest.approx(0.5 / math.sqrt(2))
    # From the last doubling on, the rate alone follows the cosine.
    assert found.lr(6_000_000) == pytest.approx(0.25)
    half = 0.5 * (1 + math.cos(math.pi * 7.5 / 9)) / 2 * 2
    assert found.lr(7_500_000) == pytest.approx(half)
    assert found.lr(HORIZON) == 0
    assert found.steps == 5625 + 938 + 938


@given(
    st.integers(0, 10**6),
    st.floats(0, 0.2),
    st.integers(1, 64),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_rate_and_batch_together_are_the_cosine_to_within_a_step(warmup, floor, start, n, share):
    """The rate divided by the root of the batch's growth: the cosine, or what it last halved to."""
    found = seesaw(start * 2**n, start, warmup=warmup, floor=floor)
    cosine = resolve({"name": "cosine", "peak": 0.5, "warmup": warmup, "floor": floor}, start)
    tokens = int(warmup + share * (HORIZON - 1 - warmup))
    growth = found.batch_size(tokens) / start
    assert growth == 2 ** round(math.log2(growth)) <= 2**n
    halved = found.lr(tokens) / math.sqrt(growth)
    exact = cosine.lr(tokens)
    if growth == 2**n:
        assert halved == pytest.approx(exact, rel=1e-6, abs=1e-12)
    else:
        assert exact * (1 - 1e-6) <= halved <= max(2 * exact, exact) * (1 + 1e-6)
    before = np.array([0, warmup // 2, warmup], dtype=np.int64)
    assert (found.lr(before) == cosine.lr(before)).all()


def test_without_room_for_a_doubling_it_is_the_cosine():
    cosine = resolve({"name": "cosine", "peak": 0.5, "warmup": "5%"}, 8)
    assert seesaw(to=15, warmup="5%") == cosine


def test_fewer_steps_for_the_same_tokens():
    """A batch in inverse proportion to the cosine would save half of them; stairs save less."""
    shares = [1 - seesaw(8 * 2**n).steps / seesaw(8).steps for n in range(8)]
    assert shares == sorted(shares)
    assert 0.36 < shares[-1] < 0.5


def test_it_is_drawn_as_plain_segments():
    console = Console(record=True, width=100)
    draw_terminal(seesaw(to=32), console)
    text = console.export_text()
    for row in (r"learning rate 0 4.5M 50.0% constant 0.5", "batch size 6M 9M 33.3% constant 32"):
        assert row in " ".join(text.split())

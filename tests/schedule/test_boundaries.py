"""The value of every shape and shorthand just before, at and just after every boundary."""

from math import cos, pi, sqrt

import numpy as np
import pytest

from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule

HORIZON = 10_000


def resolve(lr=1.0, batch=1, horizon=HORIZON, seq_len=1):
    config = {"horizon": horizon, "lr": lr, "batch": batch}
    return Schedule.resolve(ScheduleSection.model_validate(config), seq_len)


def middle(shape, **more):
    """A segment on [2000, 4000) from 3 to 1, between constants of 8 and of 5."""
    return [
        {"from": 8, "tokens": 2000},
        {"shape": shape, "from": 3, "to": 1, "tokens": 2000, **more},
        {"from": 5},
    ]


WARMUP = [(0, 0.0), (1, 0.002), (499, 0.998), (500, 1.0), (501, 1.0)]
LR_TABLE = {
    "number": (0.25, [(0, 0.25), (1, 0.25), (9_999, 0.25), (10_000, 0.25), (10_001, 0.25)]),
    "constant": (
        [{"from": 8, "tokens": 2000}, {"from": 3, "until": 4000}, {"from": 5}],
        [(1999, 8), (2000, 3), (2001, 3), (3999, 3), (4000, 5), (4001, 5)],
    ),
    "linear": (
        middle("linear"),
        [(1999, 8), (2000, 3), (2001, 2.999), (3999, 1.001), (4000, 5), (4001, 5)],
    ),
    "cosine": (
        middle("cosine"),
        [
            (1999, 8),
            (2000, 3),
            (2001, 2 + cos(pi / 2000)),
            (3000, 2),
            (3999, 2 + cos(pi * 1999 / 2000)),
            (4000, 5),
            (4001, 5),
        ],
    ),
    "1-sqrt": (
        middle("1-sqrt"),
        [
            (1999, 8),
            (2000, 3),
            (2001, 1 + 2 * (1 - sqrt(1 / 2000))),
            (2500, 2),
            (3999, 1 + 2 * (1 - sqrt(1999 / 2000))),
            (4000, 5),
            (4001, 5),
        ],
    ),
    "exponential": (
        middle("exponential"),
        [
            (1999, 8),
            (2000, 3),
            (2001, 3 ** (1 - 1 / 2000)),
            (3000, sqrt(3)),
            (3999, 3 ** (1 / 2000)),
            (4000, 5),
            (4001, 5),
        ],
    ),
    "power": (
        [
            {"from": 8, "tokens": 2000},
            {"shape": "power", "exponent": 2, "until": 4000},
            {"from": 5},
        ],
        [(1999, 8), (2000, 8), (2500, 8 / 1.25**2), (3999, 8 / 1.9995**2), (4000, 5)],
    ),
    "inverse-sqrt": (
        {"name": "inverse-sqrt", "peak": 1, "warmup": "4%", "decay": "64%", "floor": 0.1},
        [(200, 0.5), (400, 1), (1600, 0.5), (3599, sqrt(400 / 3599)), (3600, 1 / 3), (10_000, 0.1)],
    ),
    "power, held": (
        {"name": "power", "peak": 1, "warmup": 100, "hold": "4%", "exponent": 1.5},
        [(50, 0.5), (100, 1), (399, 1), (400, 1), (1600, 1 / 8), (10_000, 1 / 125)],
    ),
    # Periods turn at 2400 and 3200, and begin at 2000, 2800 and 3600; the last is cut.
    "cyclic": (
        middle("cyclic", period=800),
        [
            (1999, 8),
            (2000, 3),
            (2001, 2.995),
            (2399, 1.005),
            (2400, 1),
            (2401, 1.005),
            (2799, 2.995),
            (2800, 3),
            (2801, 2.995),
            (3200, 1),
            (3600, 3),
            (3999, 1.005),
            (4000, 5),
            (4001, 5),
        ],
    ),
    "wsd": (
        {"name": "wsd", "peak": 1, "warmup": "5%", "decay": "20%", "floor": 0.1},
        [
            *WARMUP,
            (7999, 1),
            (8000, 1),
            (8001, 0.1 + 0.9 * (1 - sqrt(1 / 2000))),
            (9999, 0.1 + 0.9 * (1 - sqrt(1999 / 2000))),
            (10_000, 0.1),
            (10_001, 0.1),
        ],
    ),
    "wsd linear": (
        {"name": "wsd", "peak": 1, "warmup": 500, "decay": 2000, "decay_shape": "linear"},
        [*WARMUP, (7999, 1), (8000, 1), (8001, 0.9995), (9999, 0.0005), (10_000, 0), (10_001, 0)],
    ),
    "cosine shorthand": (
        {"name": "cosine", "peak": 1, "warmup": 500, "floor": 0.1},
        [
            *WARMUP[:-1],
            (501, 0.55 + 0.45 * cos(pi / 9500)),
            (9999, 0.55 + 0.45 * cos(pi * 9499 / 9500)),
            (10_000, 0.1),
            (10_001, 0.1),
        ],
    ),
    "linear shorthand": (
        {"name": "linear", "peak": 1, "warmup": 500},
        [*WARMUP[:-1], (501, 9499 / 9500), (9999, 1 / 9500), (10_000, 0), (10_001, 0)],
    ),
    "constant shorthand": (
        {"name": "constant", "peak": 1, "warmup": "5%"},
        [*WARMUP, (9999, 1), (10_000, 1), (10_001, 1)],
    ),
    "no warmup": (
        {"name": "linear", "peak": 1},
        [(0, 1), (1, 0.9999), (9999, 0.0001), (10_000, 0)],
    ),
}


@pytest.mark.parametrize("name", LR_TABLE)
def test_lr_at_every_boundary(name):
    lr, table = LR_TABLE[name]
    schedule = resolve(lr)
    for tokens, value in table:
        assert schedule.lr(tokens) == pytest.approx(value, rel=1e-12, abs=1e-15), tokens
    tokens = np.array([tokens for tokens, _ in table])
    assert schedule.lr(tokens).tolist() == [schedule.lr(count) for count in tokens.tolist()]


BATCH_TABLE = {
    "number": (7, [(0, 7), (1, 7), (9_999, 7), (10_000, 7)]),
    "segments": (
        [{"from": 4, "tokens": 2000}, {"from": 6, "until": "40%"}, {"from": 5}],
        [(0, 4), (1999, 4), (2000, 6), (2001, 6), (3999, 6), (4000, 5), (4001, 5), (10_000, 5)],
    ),
    # 4 + 4 · (t - 1000) / 2000: a sample more each 500 tokens.
    "ramp": (
        {"name": "ramp", "from": 4, "to": 8, "start": 1000, "over": 2000},
        [(0, 4), (999, 4), (1000, 4), (1001, 4), (1499, 4), (1500, 5), (1501, 5), (1999, 5)],
        [(2000, 6), (2001, 6), (2499, 6), (2500, 7), (2999, 7), (3000, 8), (3001, 8)],
    ),
    "falling ramp": (
        {"name": "ramp", "from": 8, "to": 6, "over": 2000},
        [(0, 8), (1, 7), (1000, 7), (1001, 6), (1999, 6), (2000, 6), (2001, 6)],
    ),
    "ramp of multiples": (
        {"name": "ramp", "from": 8, "to": 24, "over": 2000, "multiple_of": 8},
        [(0, 8), (999, 8), (1000, 16), (1001, 16), (1999, 16), (2000, 24), (2001, 24)],
    ),
    "below one multiple": (
        {"name": "ramp", "from": 1, "to": 17, "over": 1600, "multiple_of": 8},
        [(0, 8), (1499, 8), (1500, 16), (1599, 16), (1600, 16)],
    ),
    "constant below its multiple": ([{"from": 20, "multiple_of": 8}], [(0, 16), (10_000, 16)]),
    # A value that is whole only in exact arithmetic: cos(π/3) is 0.5000000000000001.
    "cosine ramp": (
        {"name": "ramp", "from": 4, "to": 8, "over": 3000, "shape": "cosine"},
        [(999, 4), (1000, 5), (1001, 5), (1499, 5), (1500, 6), (1999, 6), (2000, 7), (3000, 8)],
    ),
    # Rises 2 → 4 on [0, 500], falls back to 2 on [500, 1000], and again.
    "cyclic": (
        [{"shape": "cyclic", "from": 2, "to": 4, "period": 1000}],
        [(0, 2), (249, 2), (250, 3), (499, 3), (500, 4), (501, 3), (750, 3), (751, 2), (999, 2)],
        [(1000, 2), (1249, 2), (1250, 3), (9500, 4), (9501, 3), (9999, 2), (10_000, 2)],
    ),
    "cyclic of odd period": (
        [{"shape": "cyclic", "from": 9, "to": 5, "period": 5}],
        [(0, 9), (1, 7), (2, 5), (3, 5), (4, 7), (5, 9), (9_999, 7)],
    ),
}


@pytest.mark.parametrize("name", BATCH_TABLE)
def test_batch_size_at_every_boundary(name):
    batch, *lines = BATCH_TABLE[name]
    table = [entry for line in lines for entry in line]
    schedule = resolve(batch=batch)
    assert [(tokens, schedule.batch_size(tokens)) for tokens, _ in table] == table


def test_a_segment_without_from_goes_on_where_the_one_before_it_ends():
    lr = [
        {"shape": "linear", "from": 0, "to": 2, "tokens": 1000},
        {"tokens": 1000},
        {"shape": "cyclic", "to": 1, "period": 1000, "tokens": 1250},  # ends halfway: 1.5
        {"shape": "linear", "to": 0},
    ]
    schedule = resolve(lr)
    assert [s.first for s in schedule.lr_segments] == [0, 2, 2, 1.5]


def test_a_segment_without_tokens_is_dropped_but_its_end_is_gone_on_from():
    lr = [{"shape": "linear", "from": 0, "to": 2, "tokens": 0}, {"shape": "linear", "to": 1}]
    schedule = resolve(lr)
    assert [(s.start, s.end, s.first) for s in schedule.lr_segments] == [(0, HORIZON, 2)]


def test_a_cyclic_segment_without_tokens_ends_where_it_begins():
    lr = [{"shape": "cyclic", "from": 3, "to": 2, "period": 10, "tokens": 0}, {}]
    assert resolve(lr).lr(0) == 3


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt", "exponential"])
@pytest.mark.parametrize(("first", "last"), [(0.1, 0.3), (0.7, 0.1), (1e-4, 6.7e-1)])
def test_the_ends_are_exact(shape, first, last):
    lr = [{"shape": shape, "from": first, "to": last}]
    schedule = resolve(lr)
    assert (schedule.lr(0), schedule.lr(HORIZON)) == (first, last)


@pytest.mark.parametrize("horizon", [7, 101, 999, 12_345_677])
def test_shares_that_add_up_to_the_whole_fill_any_horizon(horizon):
    lr = [
        {"shape": "linear", "from": 0, "to": 1, "tokens": "5%"},
        {"tokens": "74.5%"},
        {"shape": "linear", "to": 0, "tokens": "20.5%"},
    ]
    schedule = resolve(lr, horizon=horizon)
    assert schedule.lr_segments[-1].end == horizon
    assert schedule.lr_segments[-1].start == horizon * 795 // 1000

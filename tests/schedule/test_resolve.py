"""Both ways to write a schedule mean the same; what can't be meant is refused by name."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from manta.config import ConfigError, dump, load
from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule, Segment


def section(lr=1.0, batch=1, horizon="10M"):
    return ScheduleSection.model_validate({"horizon": horizon, "lr": lr, "batch": batch})


def resolve(lr=1.0, batch=1, horizon="10M"):
    return Schedule.resolve(section(lr, batch, horizon), seq_len=1000)


UP = {"shape": "linear", "from": 0, "to": 0.5, "tokens": "5%"}
WRITTEN_OUT = [
    (0.5, [{"from": 0.5}]),
    (
        {"name": "wsd", "peak": 0.5, "warmup": "5%", "decay": "20%"},
        [UP, {"until": "80%"}, {"shape": "1-sqrt", "to": 0}],
    ),
    (
        {"name": "wsd", "peak": 0.5, "warmup": "5%", "decay": "20%"},
        [UP, {"tokens": "75%"}, {"shape": "1-sqrt", "to": 0, "tokens": "20%"}],
    ),
    (
        {"name": "wsd", "peak": 0.5, "warmup": "500K", "decay": "2M", "decay_shape": "cosine"},
        [UP, {"until": "8M"}, {"shape": "cosine", "to": 0}],
    ),
    (
        {"name": "wsd", "peak": 0.5, "decay": "10%", "decay_shape": "exponential", "floor": 0.1},
        [{"from": 0.5, "tokens": "90%"}, {"shape": "exponential", "to": 0.1}],
    ),
    (
        {"name": "cosine", "peak": 0.5, "warmup": "5%", "floor": 0.05},
        [UP, {"shape": "cosine", "to": 0.05}],
    ),
    ({"name": "linear", "peak": 0.5, "warmup": "5%"}, [UP, {"shape": "linear", "to": 0}]),
    ({"name": "constant", "peak": 0.5, "warmup": "5%"}, [UP, {}]),
    (
        {"name": "inverse-sqrt", "peak": 0.5, "warmup": "5%"},
        [UP, {"shape": "power", "exponent": 0.5}],
    ),
    (
        {"name": "power", "peak": 0.5, "warmup": "5%", "hold": "10%", "decay": "10%"},
        [
            UP,
            {"until": "10%"},
            {"shape": "power", "exponent": 0.51, "until": "90%"},
            {"shape": "1-sqrt", "to": 0},
        ],
    ),
    ({"name": "constant", "peak": 0.5}, 0.5),
    ({"name": "cosine", "peak": 0.5, "floor": 0.5}, 0.5),
]
WRITTEN_OUT_BATCH = [
    (64, [{"from": 64}]),
    ({"name": "ramp", "from": 64, "to": 64, "over": "10%"}, 64),
    (
        {"name": "ramp", "from": 8, "to": 64, "over": "10%", "multiple_of": 8},
        [{"shape": "linear", "from": 8, "to": 64, "tokens": "1M", "multiple_of": 8}, {}],
    ),
    (
        {"name": "ramp", "from": 8, "to": 64, "start": "1M", "over": "10%", "shape": "cosine"},
        [{"from": 8, "tokens": "1M"}, {"shape": "cosine", "to": 64, "until": "20%"}, {}],
    ),
]


@pytest.mark.parametrize("horizon", ["10M", 10_000_001, 9_999_999])
@pytest.mark.parametrize(("shorthand", "written"), WRITTEN_OUT)
def test_a_shorthand_is_its_written_out_form(shorthand, written, horizon):
    if any(isinstance(s, dict) and s.get("until") == "8M" for s in [*_list(written)]):
        horizon = "10M"
    assert resolve(shorthand, horizon=horizon) == resolve(written, horizon=horizon)


@pytest.mark.parametrize(("shorthand", "written"), WRITTEN_OUT_BATCH)
def test_a_batch_shorthand_is_its_written_out_form(shorthand, written):
    assert resolve(batch=shorthand) == resolve(batch=written)


def _list(written):
    return written if isinstance(written, list) else []


def test_neighbours_with_the_same_constant_are_one_segment():
    cut = [{"from": 2, "tokens": 10}, {"shape": "linear", "to": 2, "tokens": 5}, {"from": 2}]
    assert resolve(cut).lr_segments == (Segment(0, 10_000_000, "constant", 2.0, 2.0),)
    cyclic = [{"shape": "cyclic", "from": 2, "to": 2, "period": 5, "tokens": 50}, {}]
    assert resolve(cyclic) == resolve(cut)
    sizes = [{"from": 17, "multiple_of": 8, "tokens": 10}, {"from": 16}]
    assert resolve(batch=sizes).batch_segments == (Segment(0, 10_000_000, "constant", 16.0, 16.0),)


def test_different_constants_and_curves_stay_apart():
    lr = [{"from": 2, "tokens": 10}, {"from": 3, "tokens": 10}, {"shape": "linear", "to": 2}]
    assert len(resolve(lr).lr_segments) == 3


ALL_FORMS = [(lr, 64) for pair in WRITTEN_OUT for lr in pair] + [
    (1.0, batch) for pair in WRITTEN_OUT_BATCH for batch in pair
]


@pytest.mark.parametrize(("lr", "batch"), ALL_FORMS)
def test_a_schedule_survives_dump_and_load(lr, batch, tmp_path):
    config = section(lr, batch)
    path = tmp_path / "schedule.yaml"
    path.write_text(dump(config))
    again = load(path, ScheduleSection)
    assert again == config
    assert Schedule.resolve(again, 512) == Schedule.resolve(config, 512)


SHORT = {"name": "wsd", "peak": 1, "warmup": "5%", "decay": "20%"}
RAMP = {"name": "ramp", "from": 8, "to": 64, "over": "10%"}
REFUSED = {
    "before the end before": (
        [{"from": 1, "until": "5M"}, {"until": "4M"}, {}],
        "schedule.lr.1.until = 4M: is before the segment's start at 5M",
    ),
    "until past the horizon": (
        [{"from": 1, "until": "5M"}, {"shape": "linear", "to": 0, "until": "12M"}],
        "schedule.lr.1.until = 12M: ends at 12M tokens, after the horizon of 10M",
    ),
    "tokens past the horizon": (
        [{"from": 1, "tokens": "50%"}, {"tokens": "60%"}],
        "schedule.lr.1.tokens = 60%: ends at 11M tokens, after the horizon of 10M",
    ),
    "stops early": (
        [{"from": 1, "tokens": "50%"}, {"tokens": "40%"}],
        "schedule.lr: its segments end at 9M tokens, before the horizon of 10M",
    ),
    "no length": (
        [{"from": 1}, {"tokens": "40%"}],
        "schedule.lr.0: give 'tokens' or 'until'",
    ),
    "power from 0 tokens": (
        [{"shape": "power", "from": 1, "exponent": 0.5}],
        "schedule.lr.0: a power segment can't begin at 0 tokens",
    ),
    "inverse-sqrt from 0 tokens": (
        {"name": "inverse-sqrt", "peak": 1},
        "schedule.lr.hold: a rate that falls as a power of the tokens",
    ),
    "held into the decay": (
        {"name": "power", "peak": 1, "hold": "90%", "decay": "20%"},
        "schedule.lr.hold = 90%: must lie between",
    ),
    "no first value": ([{}], "schedule.lr.0.from is missing"),
    "exponential to 0": (
        [{"shape": "exponential", "from": 1, "to": 0}],
        "schedule.lr.0.to = 0: an exponential segment multiplies",
    ),
    "exponential from 0": (
        [{"from": 0, "tokens": 5}, {"shape": "exponential", "to": 1}],
        "schedule.lr.1.from = 0: an exponential segment multiplies",
    ),
    "multiple of a rate": ([{"from": 1, "multiple_of": 8}], "schedule.lr.0.multiple_of"),
    "exponential decay to 0": (
        {**SHORT, "decay_shape": "exponential"},
        "schedule.lr.floor = 0: an exponential decay never reaches 0",
    ),
    "long warmup": (
        {"name": "cosine", "peak": 1, "warmup": "12M"},
        "schedule.lr.warmup = 12M: is longer than the horizon of 10M",
    ),
    "long warmup and decay": (
        {**SHORT, "decay": "96%"},
        "schedule.lr.decay = 96%: together with the",
    ),
}
REFUSED_BATCH = {
    "fraction": ([{"from": 8.5}], "schedule.batch.0.from = 8.5: give a whole number"),
    "fraction at the end": (
        [{"shape": "linear", "from": 8, "to": 9.5}],
        "schedule.batch.0.to = 9.5: give a whole number",
    ),
    "below one": (
        [{"from": 8, "tokens": 10}, {"shape": "linear", "to": 0}],
        "schedule.batch.1.to = 0: give a whole number of samples, 1 or greater",
    ),
    "stops early": (
        [{"from": 8, "tokens": "1M"}],
        "schedule.batch: its segments end at 1M tokens, before the horizon of 10M",
    ),
    "long ramp": ({**RAMP, "start": "95%"}, "schedule.batch.over = 10%: the ramp, starting at 95%"),
    "too many sizes": (
        {**RAMP, "to": 1_000_000},
        "schedule.batch: the linear segment from 0 to 1M tokens makes for 999991 changes",
    ),
    "too many periods": (
        [{"shape": "cyclic", "from": 8, "to": 64, "period": 100}],
        "schedule.batch: the cyclic segment from 0 to 10M tokens makes for",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_lr(name):
    lr, message = REFUSED[name]
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(lr)


@pytest.mark.parametrize("name", REFUSED_BATCH)
def test_refused_batch(name):
    batch, message = REFUSED_BATCH[name]
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(batch=batch)


AS_WRITTEN = [
    (1, True, "batch = true: write a number, not true or false"),
    (True, 1, "lr = true: write a number, not true or false"),
    (1, [{"from": True}], "batch.0.from = true: write a number"),
    (1, {**RAMP, "from": True}, "batch.from = true: write a number"),
    (1, {**RAMP, "multiple_of": True}, "batch.multiple_of = true: write a number"),
    (1, 0, "batch = 0: input should be greater than or equal to 1"),
    (1, -8, "batch = -8: input should be greater than or equal to 1"),
    (1, 2.5, "batch = 2.5: input should be a valid integer"),
    (1, [], "batch: list should have at least 1 item"),
    (0, 1, "lr = 0: input should be greater than 0"),
    (-1, 1, "lr = -1: input should be greater than 0"),
    ([{"from": -1}], 1, "lr.0.from = -1: input should be greater than or equal to 0"),
    ([{"shape": "cyclic", "from": 1, "to": 2}], 1, "lr.0: a cyclic segment needs 'period'"),
    ([{"shape": "linear", "from": 1}], 1, "lr.0: a linear segment needs 'to'"),
    ([{"from": 1, "tokens": 5, "until": 5}], 1, "lr.0: give 'tokens' or 'until', not both"),
    ([{"from": 1, "to": 2}], 1, "lr.0: a constant segment has one value"),
    ({"name": "wsd", "peak": 1}, 1, "lr: wsd needs 'decay'"),
    ({"name": "cosine", "peak": 1, "decay": "5%"}, 1, "lr: 'decay' is only for wsd"),
    (
        {"name": "cosine", "peak": 1, "decay_shape": "linear"},
        1,
        "lr: 'decay_shape' is only for wsd",
    ),
    (
        {"name": "wsd", "peak": 1, "decay": "5%", "hold": 9},
        1,
        "lr: 'hold' is only for inverse-sqrt",
    ),
    ({"name": "inverse-sqrt", "peak": 1, "exponent": 1}, 1, "lr: 'exponent' is only for power"),
    ({"name": "power", "peak": 1, "hold": 9, "floor": 0.1}, 1, "lr: 'floor' is only for"),
    ([{"from": 1, "tokens": 5}, {"shape": "power"}], 1, "lr.1: a power segment needs 'exponent'"),
    ([{"shape": "power", "exponent": 1, "to": 1}], 1, "lr.0: a power segment ends where"),
    ({"name": "seesaw", "peak": 1}, 8, "seesaw is a schedule of both rate and batch size"),
    (1, {"name": "seesaw", "from": 8, "to": 32}, "give 'lr' as {name: seesaw, …}, too"),
    (1, {"name": "seesaw", "from": 8, "to": 4}, "batch: 'to' 4 is below 'from' 8"),
    (1, {"name": "seesaw", "from": 8, "to": 9, "over": "5%"}, "'over' is only for ramp"),
    (1, {"name": "ramp", "from": 8, "to": 9}, "batch: a ramp needs 'over'"),
    ({"name": "constant", "peak": 1, "floor": 0.1}, 1, "lr: 'floor' is only for a schedule that"),
    ({"name": "cosine", "peak": 1, "floor": 2}, 1, "lr: 'floor' 2.0 is above 'peak' 1.0"),
]


@pytest.mark.parametrize(("lr", "batch", "message"), AS_WRITTEN)
def test_refused_as_written(lr, batch, message, tmp_path):
    path = tmp_path / "schedule.yaml"
    path.write_text(yaml.safe_dump({"horizon": "10M", "lr": lr, "batch": batch}))
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(path, ScheduleSection)


def test_a_horizon_beyond_exact_floats_is_refused():
    with pytest.raises(ConfigError, match=r"schedule\.horizon"):
        resolve(horizon=2**53 + 1)


@given(
    st.integers(1, 10**12),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.sampled_from(["linear", "cosine", "1-sqrt"]),
)
def test_wsd_in_shares_equals_its_written_out_form(horizon, warmup, decay, shape):
    """For any horizon and shares of hundredths of a percent: no token is lost to rounding."""
    decay = min(decay, 10_000 - warmup)
    warm, hold, fall = (f"{part / 100:.2f}%" for part in (warmup, 10_000 - warmup - decay, decay))
    short = {"name": "wsd", "peak": 1, "warmup": warm, "decay": fall, "decay_shape": shape}
    written = [
        {"shape": "linear", "from": 0, "to": 1, "tokens": warm},
        {"tokens": hold},
        {"shape": shape, "to": 0, "tokens": fall},
    ]
    assert (
        resolve(short, horizon=horizon).lr_segments == resolve(written, horizon=horizon).lr_segments
    )

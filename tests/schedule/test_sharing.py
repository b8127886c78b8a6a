"""How many steps two schedules share: laws, and a table at the boundaries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule
from manta.schedule.sharing import shared_steps

SEQ = 4


def schedule(horizon: int = 400, **keys: object) -> Schedule:
    """A schedule of steps of 4 tokens unless `batch` says otherwise."""
    section = {"horizon": horizon, "lr": 1e-3, "batch": 1, **keys}
    return Schedule.resolve(ScheduleSection.model_validate(section), SEQ)


def wsd(decay: object, **keys: object) -> dict[str, object]:
    return {"name": "wsd", "peak": 1e-3, "warmup": 40, "decay": decay, **keys}


def ramp(start: object, to: int) -> dict[str, object]:
    return {"name": "ramp", "from": 1, "to": to, "start": start, "over": "10%"}


def power(decay: object, **keys: object) -> dict[str, object]:
    return {"name": "power", "peak": 1e-3, "warmup": 40, "decay": decay, **keys}


def seesaw(to: int) -> dict[str, object]:
    lr = {"name": "seesaw", "peak": 1e-3, "warmup": 40}
    return {"lr": lr, "batch": {"name": "seesaw", "from": 1, "to": to}}


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [
        ({}, {}, 100),
        ({}, {"lr": 2e-3}, 0),
        # Decays begin at 320 and 360 tokens: the steps up to 320 are the same.
        ({"lr": wsd("20%")}, {"lr": wsd("10%")}, 80),
        ({"lr": wsd("20%")}, {"lr": wsd("20%", decay_shape="linear")}, 80),
        ({"lr": wsd("20%")}, {"lr": wsd("20%", peak=2e-3)}, 0),
        # A run that ends is the beginning of a longer one.
        ({}, {"horizon": 200}, 50),
        # A decay at 81 % begins within a step: that step has part of it at its middle or not.
        ({"lr": wsd(74)}, {"lr": wsd("10%")}, 82),
        ({"lr": wsd(73)}, {"lr": wsd("10%")}, 82),
        # The same line in two parts is the same line, where floats are exact.
        (
            {"horizon": 512, "lr": [{"shape": "linear", "from": 0, "to": 1}]},
            {
                "horizon": 512,
                "lr": [
                    {"shape": "linear", "from": 0, "to": 0.5, "until": "50%"},
                    {"shape": "linear", "to": 1},
                ],
            },
            128,
        ),
        # What changed its mind half-way, after 200 tokens, was the old schedule until then.
        (
            {"lr": wsd("20%")},
            {"lr": 2e-3, "history": [{"until": 200, "lr": wsd("20%"), "batch": 1}]},
            50,
        ),
        (
            {"lr": {"name": "cosine", "peak": 1e-3}},
            {
                "lr": {"name": "cosine", "peak": 1e-3},
                "batch": 2,
                "history": [{"until": 202, "lr": {"name": "cosine", "peak": 1e-3}, "batch": 1}],
            },
            51,
        ),
        # A power of the tokens has no end: another decay or horizon shares what is before.
        ({"lr": power("20%")}, {"lr": power("40%")}, 60),
        ({"lr": power("20%")}, {"lr": power("20%"), "horizon": 500}, 80),
        ({"lr": power("20%")}, {"lr": power("20%", exponent=0.6)}, 10),
        # The cosine is at a half at 220 tokens: one doubles again later, one goes on as cosine.
        (seesaw(4), seesaw(2), 55),
        (seesaw(4), seesaw(1), 10),
        # Ramps from 1 to 2: its second half has 2.
        ({"batch": ramp("50%", 2)}, {}, 60),
        ({"batch": ramp("50%", 2)}, {"batch": ramp("80%", 2)}, 60),
        ({"batch": 2}, {"batch": 3}, 0),
    ],
)
def test_shared_steps(a: dict, b: dict, steps: int) -> None:
    first, second = schedule(**a), schedule(**b)
    assert shared_steps(first, second) == shared_steps(second, first) == steps


def test_another_sequence_length_shares_nothing() -> None:
    section = ScheduleSection.model_validate({"horizon": 400, "lr": 1e-3, "batch": 1})
    assert shared_steps(Schedule.resolve(section, 4), Schedule.resolve(section, 8)) == 0


def test_a_horizon_within_the_last_step_changes_its_rate() -> None:
    rate = {"name": "linear", "peak": 1.0, "floor": 0.0}
    a = schedule(400, lr=rate, batch=3)
    cut = [{"shape": "linear", "from": 1.0, "to": 0.0, "tokens": 400}, {"shape": "constant"}]
    b = schedule(402, lr=cut, batch=3)
    assert a.steps == b.steps == 34
    assert a.step(33).lr != b.step(33).lr
    assert shared_steps(a, b) == 33


rates = st.sampled_from([1e-3, 2e-3])
lrs = st.one_of(
    rates,
    st.builds(
        lambda peak, warmup, decay, shape: {
            "name": "wsd",
            "peak": peak,
            "warmup": warmup,
            "decay": decay,
            "decay_shape": shape,
        },
        rates,
        st.sampled_from([0, 40, 42]),
        st.sampled_from(["10%", "25%", 90, 93]),
        st.sampled_from(["linear", "cosine", "1-sqrt"]),
    ),
)
batches = st.one_of(
    st.integers(1, 3), st.builds(ramp, st.sampled_from(["30%", "50%", 105]), st.integers(1, 4))
)
histories = st.lists(st.tuples(lrs, batches), max_size=2).map(
    lambda pasts: [
        {"until": 99 + 50 * number, "lr": lr, "batch": batch}
        for number, (lr, batch) in enumerate(pasts)
    ]
)
schedules = st.builds(
    lambda horizon, lr, batch, history: schedule(horizon, lr=lr, batch=batch, history=history),
    st.sampled_from([200, 400, 402]),
    lrs,
    batches,
    histories,
)


@given(lrs, batches)
def test_a_past_is_what_it_was(lr: object, batch: object) -> None:
    """The rate until the change is that of the schedule before, to the bit, and batches too."""
    before = schedule(400, lr=lr, batch=batch)
    after = schedule(400, lr=5e-3, batch=4, history=[{"until": 210, "lr": lr, "batch": batch}])
    assert [after.lr(t) for t in range(0, 210, 3)] == [before.lr(t) for t in range(0, 210, 3)]
    assert [after.batch_size(t) for t in range(210)] == [before.batch_size(t) for t in range(210)]
    assert {after.lr(t) for t in range(210, 400)} == {5e-3}
    assert {after.batch_size(t) for t in range(210, 400)} == {4}
    assert shared_steps(before, after) >= before.reaching(210) - 1


@given(schedules, schedules)
def test_shared_steps_are_those_before_the_first_difference(a: Schedule, b: Schedule) -> None:
    steps = shared_steps(a, b)
    for k in range(steps):
        assert a.step(k) == b.step(k)
    if steps < min(a.steps, b.steps):
        assert a.step(steps) != b.step(steps)


@given(schedules, schedules, schedules)
def test_sharing_is_a_tree(a: Schedule, b: Schedule, c: Schedule) -> None:
    assert shared_steps(a, c) >= min(shared_steps(a, b), shared_steps(b, c))


@given(schedules, st.data())
def test_rates_of_many_steps_are_those_of_each(a: Schedule, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, a.steps))
    count = data.draw(st.integers(0, a.steps - first))
    assert a.lrs(first, count).tolist() == [a.step(k).lr for k in range(first, first + count)]


@given(schedules, st.data())
def test_the_step_that_reaches_a_token_count(a: Schedule, data: st.DataObject) -> None:
    tokens = data.draw(st.integers(0, a.positions * SEQ))
    step = a.step(a.reaching(tokens) - 1)
    assert step.tokens <= max(tokens - 1, 0)
    assert tokens <= step.tokens_after
    with pytest.raises(IndexError):
        a.reaching(a.positions * SEQ + 1)

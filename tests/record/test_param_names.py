"""Parameters as flat columns: names that tell them apart, values that can be drawn."""

from __future__ import annotations

import pytest

from manta.record.param_names import column_names, flat


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["schedule.lr.peak", "schedule.batch"], ["peak", "batch"]),
        (["schedule.lr.from", "schedule.batch.from"], ["lr_from", "batch_from"]),
        (["_stretch"], ["stretch"]),
        # What stands beside parameters keeps its name.
        (["schedule.lr.name", "tokens"], ["lr_name", "tokens"]),
        # A key that has no more words to tell it apart stays as it is.
        (["_decay", "schedule.lr.decay"], ["_decay", "lr_decay"]),
        (["a.b.x", "b.x", "c.x"], ["a_b_x", "b.x", "c_x"]),
    ],
)
def test_names_are_short_and_clear(keys: list[str], names: list[str]) -> None:
    assert list(column_names(iter(keys)).values()) == names
    assert column_names(keys[::-1]) == dict(zip(keys, names, strict=True))


def test_values_are_plain_and_the_seed_is_none_of_them() -> None:
    params = {"a.batch": {"name": "ramp"}, "a.peak": 0.1, "_on": True, "run.seed": 3}
    names = column_names(["a.batch", "a.peak", "_on"])
    assert flat(params, names) == {"batch": '{"name": "ramp"}', "peak": 0.1, "on": True}

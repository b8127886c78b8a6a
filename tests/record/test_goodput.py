"""Each second of a run's devices is counted once, by what it went to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import Clock
from run_records import Open, start

from manta.config import RunConfig
from manta.config.metrics import (
    AGAIN,
    COMPUTING,
    ENDING,
    EVALUATING,
    OTHER,
    REGROUPING,
    SAVING,
    STARTING,
    WAITING_FOR_DATA,
)
from manta.record.accounting import Accounting
from manta.record.goodput import device_seconds, goodput
from manta.record.run_state import GroupStart, RunState, Totals


def test_where_the_time_of_a_disturbed_run_went(open_record: Open, clock: Any, training_row: Any):
    record = open_record()
    clock.now += 3  # until the first group trains
    start(record, 4, 0)
    clock.now += 10
    record.add(training_row(10))
    record.group_spent(10, {COMPUTING: 7.0, WAITING_FOR_DATA: 1.0, SAVING: 1.5})
    clock.now += 5
    record._accounting.reached(14, 140)  # four more steps, of which nobody told more
    clock.now += 2  # then the node is gone
    record.group_ended(reason="node lost")
    clock.now += 1
    start(record, 2, 12, attempt=1)
    clock.now += 6
    record.add(training_row(18))
    record.group_spent(18, {COMPUTING: 6.0})
    record.finish("finished", reason="", final={})
    found = device_seconds(record.state)
    assert {name: seconds for name, seconds in found.items() if seconds} == pytest.approx(
        {
            STARTING: 4 * 3,
            COMPUTING: 4 * (7 + 5) + 2 * 4,
            WAITING_FOR_DATA: 4 * 1,
            SAVING: 4 * 1.5,
            OTHER: 4 * 0.5,
            ENDING: 4 * 2,
            REGROUPING: 2 * 1,
            AGAIN: 2 * 2,  # steps 13 and 14 of 13 to 18
        }
    )
    assert goodput(record.state) == pytest.approx(56 / 94)
    assert record.state.totals.device_seconds == pytest.approx(94)


def test_an_older_record_has_none(open_record: Open, clock: Any) -> None:
    record = open_record()
    start(record, 2, 0)
    clock.now += 10
    record.group_ended(reason="done")
    for group in record.state.groups:
        group.spent.clear()
    assert device_seconds(record.state) == {}
    assert goodput(record.state) is None


told = st.tuples(st.integers(0, 20), st.floats(0, 10), st.floats(0, 9), st.floats(0, 3))


@given(groups=st.lists(st.tuples(st.integers(1, 4), st.lists(told)), min_size=1, max_size=4))
def test_activities_sum_to_the_wall_time_of_the_devices(groups: Any) -> None:
    clock = Clock()
    state = RunState.model_construct(groups=[], totals=Totals(), hardware={})
    config = RunConfig.model_validate(
        {
            "run": {"name": "one"},
            "corpus": "c",
            "model": {"type": "gpt2"},
            "train": {"seq_len": 10},
            "schedule": {"horizon": 1000, "lr": 0.1, "batch": 1},
        }
    )
    accounting = Accounting(state, config, clock)
    whole, step = 0.0, 0
    for workers, news in groups:
        idle = clock.now
        clock.now += 0.5
        step = max(0, step - 3)
        begin = GroupStart(workers, attempt=1, step=step, tokens=10 * step, hardware={})
        accounting.group_started(begin)
        spent = dict.fromkeys((COMPUTING, EVALUATING), 0.0)
        for steps, passed, computed, evaluated in news:
            step += steps
            clock.now += passed
            accounting.reached(step, 10 * step)
            # What workers tell may be more than has passed here, as news takes its time.
            spent = {
                COMPUTING: spent[COMPUTING] + computed,
                EVALUATING: spent[EVALUATING] + evaluated,
            }
            accounting.spent(step, spent)
        clock.now += 1
        accounting.group_ended("node lost")
        whole += workers * (clock.now - idle)
    assert sum(device_seconds(state).values()) == pytest.approx(whole)

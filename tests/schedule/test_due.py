"""What is due after a step, as a table: at every boundary."""

from __future__ import annotations

import pytest

from manta.config.run import CheckpointSection, EvalSection, LogSection, RunConfig
from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule
from manta.schedule.due import due, steps_at

SEQ_LEN, BATCH = 8, 4
STEP = SEQ_LEN * BATCH  # tokens of a step, of which the run has six


def runs(log=0, evaluation=None, checkpoint=None):
    return RunConfig.model_validate(
        {
            "run": {"name": "due"},
            "corpus": "nowhere",
            "model": {"type": "llama"},
            "schedule": {"horizon": 6 * STEP, "batch": BATCH, "lr": 1e-3},
            "train": {"seq_len": SEQ_LEN},
            "log": LogSection(every=log),
            "eval": EvalSection(**(evaluation or {})),
            "checkpoint": CheckpointSection(**(checkpoint or {})),
        }
    )


def numbers(config, what):
    """The numbers of the steps after which something is due."""
    schedule = Schedule.resolve(config.schedule, SEQ_LEN)
    steps = [schedule.step(index) for index in range(schedule.steps)]
    assert [step.number for step in steps if due(step, config, schedule).last] == [6]
    return [step.number for step in steps if getattr(due(step, config, schedule), what)]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (0, [1, 2, 3, 4, 5, 6]),
        (1, [1, 2, 3, 4, 5, 6]),
        (STEP, [1, 2, 3, 4, 5, 6]),
        (2 * STEP - 1, [1, 2, 4, 6]),  # at 63, 126 and 189 tokens; steps end at 64, 128, 192
        (2 * STEP, [1, 2, 4, 6]),
        (2 * STEP + 1, [1, 3, 5, 6]),  # at 65 and 130
        (6 * STEP, [1, 6]),
        (7 * STEP, [1, 6]),
    ],
)
def test_rows_come_with_the_first_and_last_step_and_where_a_multiple_lies(every, expected) -> None:
    assert numbers(runs(log=every), "logs") == expected


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, []),  # none is asked for, at the end neither
        ({"every": 2 * STEP}, [2, 4, 6]),
        ({"every": 4 * STEP}, [4, 6]),
        ({"at": [1]}, [1, 6]),
        ({"at": [STEP]}, [1, 6]),
        ({"at": [STEP + 1]}, [2, 6]),
        ({"at": [6 * STEP]}, [6]),
        ({"at": [6 * STEP + 1]}, [6]),  # never reached; the end is evaluated for all that
        ({"at": [3 * STEP], "every": 4 * STEP}, [3, 4, 6]),
    ],
)
def test_evaluations_come_at_their_counts_and_at_the_end(section, expected) -> None:
    assert numbers(runs(evaluation=section), "evaluates") == expected


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, [6]),
        ({"every": 3 * STEP}, [3, 6]),
        ({"at": [2 * STEP - 1, 2 * STEP, 2 * STEP + 1]}, [2, 3, 6]),
    ],
)
def test_a_checkpoint_always_ends_the_run(section, expected) -> None:
    config = runs(checkpoint=section)
    assert numbers(config, "saves") == expected
    pinned = steps_at(config.checkpoint.at, Schedule.resolve(config.schedule, SEQ_LEN))
    assert pinned <= set(expected)


def test_counts_beyond_the_end_pin_no_step() -> None:
    schedule = Schedule.resolve(
        ScheduleSection.model_validate({"horizon": 6 * STEP, "batch": BATCH, "lr": 1e-3}), SEQ_LEN
    )
    assert steps_at([1, STEP, STEP + 1, 6 * STEP, 6 * STEP + 1], schedule) == {1, 2, 6}

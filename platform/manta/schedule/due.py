"""The work that is due after a step: a function of the step, the config and the schedule alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manta.config.run import RunConfig
from manta.schedule import Schedule, Step


@dataclass(frozen=True)
class DueWork:
    """What is due after a step.

    Attributes:
        logs: whether a row of metrics is due.
        evaluates: whether an evaluation is due.
        saves: whether a checkpoint is due.
        measures: whether evaluators are due to measure that checkpoint, beside training.
        last: whether the run ends with the step.
    """

    logs: bool
    evaluates: bool
    saves: bool
    measures: bool
    last: bool


def due(step: Step, config: RunConfig, schedule: Schedule) -> DueWork:
    """What is due after `step`.

    After the first step a row is due; after the last one, a row, a checkpoint and, if the config
    asks for any, an evaluation.
    """
    last = step.number == schedule.steps
    evaluation, evaluators = config.eval, config.eval.evaluators
    saves = last or _passes(config.checkpoint.at, config.checkpoint.every, step)
    if evaluators is None:
        measures = False
    elif evaluators.every is None:
        measures = saves
    else:
        measures = last or _comes_round(evaluators.every, step)
    return DueWork(
        logs=last or step.step == 0 or _comes_round(config.log.every, step),
        evaluates=_passes(evaluation.at, evaluation.every, step)
        or (last and (evaluation.every is not None or bool(evaluation.at))),
        saves=saves or measures,
        measures=measures,
        last=last,
    )


def steps_at(counts: Sequence[int], schedule: Schedule) -> frozenset[int]:
    """The steps that reach these token counts; counts after the run's end are left out."""
    end = schedule.positions * schedule.seq_len
    return frozenset(schedule.reaching(tokens) for tokens in counts if tokens <= end)


def _passes(counts: Sequence[int], every: int | None, step: Step) -> bool:
    """Whether one of the token counts, or a multiple of `every`, is reached with the step."""
    return _comes_round(every, step) or any(
        step.tokens < count <= step.tokens_after for count in counts
    )


def _comes_round(every: int | None, step: Step) -> bool:
    """Whether the step reaches a multiple of `every` tokens; always if `every` is 0."""
    if every is None:
        return False
    return every == 0 or step.tokens // every < step.tokens_after // every

"""The task that evaluates a checkpoint beside training. Light to import, also for the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.actor import ActorHandle

from manta.config.errors import ErrorReport, MantaError
from manta.elastic.messages.events import EvaluationBegun

if TYPE_CHECKING:
    from manta.config.evaluation import EvaluationConfig
    from manta.storage.place import Place


def evaluate_checkpoint(
    place: Place, step: int, config: EvaluationConfig, mailbox: ActorHandle
) -> ErrorReport | None:
    """Evaluate a run's checkpoint, as `manta evaluate RUN@STEP` does; returns what is wrong.

    Args:
        place: the run's folder, or its URL in a store.
        step: step of the checkpoint.
        config: config of the evaluation.
        mailbox: the run's mailbox, which is told that the evaluation has begun.
    """
    mailbox.put.remote(EvaluationBegun(step))
    from manta.evaluate.run_evaluation import evaluate

    try:
        evaluate(place, step, config, beside=True)
    except MantaError as error:
        return ErrorReport.of(error)
    return None

"""The task that evaluates a checkpoint beside training. Light to import, also for the driver."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ray.actor import ActorHandle

from manta.config.errors import ErrorReport, MantaError
from manta.elastic.messages.events import EvaluationBegun

if TYPE_CHECKING:
    from manta.config.evaluation import EvaluationConfig
    from manta.storage.place import Place


# Niceness of the process: where cores are shared after all, those that train come first.
NICE = 10


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
    os.nice(NICE)
    mailbox.put.remote(EvaluationBegun(step))
    from manta.evaluate.run_evaluation import evaluate
    from manta.train.threads import compute_here

    # A process that is a copy had imported Torch before it knew its number of threads.
    compute_here(int(os.environ["OMP_NUM_THREADS"]))
    try:
        evaluate(place, step, config, beside=True)
    except MantaError as error:
        return ErrorReport.of(error)
    return None

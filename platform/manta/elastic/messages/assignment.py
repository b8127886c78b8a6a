"""What the driver sends to its workers.

Light to import: Ray Train's controller unpickles it too, and would else import the whole
training stack, for nothing, before it starts the first worker.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray.actor import ActorHandle

from manta.elastic.checks.preflight import Checked


@dataclass(frozen=True)
class TrainingOrder:
    """A run to train.

    Attributes:
        checked: the run.
        mailbox: where to report.
        before: seconds from the command to the request for workers, by their parts.
        requested: when they were requested, in seconds since the epoch.
    """

    checked: Checked
    mailbox: ActorHandle
    before: dict[str, float]
    requested: float

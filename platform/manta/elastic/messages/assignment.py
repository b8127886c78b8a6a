"""What the driver sends to its workers: the run to train.

Light to import: Ray Train's controller unpickles it too, and would otherwise import the whole
training stack, which it does not need, before it starts the first worker.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray.actor import ActorHandle

from manta.elastic.checks.preflight import Checked


@dataclass(frozen=True)
class Assignment:
    """What a worker has to train, and how it reports to the driver.

    Attributes:
        checked: the run, checked by `preflight.check`.
        mailbox: the mailbox actor that workers report to.
        before: part of the time from the command to the request for workers → seconds.
        requested: time of the request for workers, in seconds since the epoch.
    """

    checked: Checked
    mailbox: ActorHandle
    before: dict[str, float]
    requested: float

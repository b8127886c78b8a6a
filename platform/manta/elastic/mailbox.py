"""How workers tell the driver what happens: one small actor on the driver's node.

Ray Train's own `report` is a barrier among workers and is read once a poll; messages
here cost a worker nothing and survive its death.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray
from ray.actor import ActorHandle

# A group that fails this often without new progress would fail for ever.
FUTILE_ATTEMPTS = 3
Message = tuple[str, dict[str, Any]]


class Mailbox:
    """Messages in the order in which they were put, and the count of attempts.

    An *attempt* is one worker group from start to end.
    """

    def __init__(self, attempts: int):
        self._messages: list[Message] = []
        self._rows_waiting: list[int] = []
        self._rows_taken: list[int] = []
        self._rows_recorded: Counter[int] = Counter()
        self._attempts = attempts
        self._futile = 0
        self._failure: str | None = None

    def put(self, kind: str, content: dict[str, Any]) -> None:
        """Add a message."""
        self._messages.append((kind, content))

    def put_rows(self, attempt: int, rows: int, kind: str, content: dict[str, Any]) -> None:
        """Add a message that holds `rows` rows of metrics of an attempt."""
        self._rows_waiting.extend([attempt] * rows)
        if kind == "metrics":
            self._futile = 0
        self.put(kind, content)

    def take(self) -> list[Message]:
        """All messages since the last call. Calling says that those taken before are on disk."""
        self._rows_recorded.update(self._rows_taken)
        self._rows_taken, self._rows_waiting = self._rows_waiting, []
        taken, self._messages = self._messages, []
        return taken

    def recorded(self, attempt: int) -> int:
        """How many rows of metrics of an attempt the driver has on disk."""
        return self._rows_recorded[attempt]

    def begin_attempt(self) -> int:
        """The number of the attempt that starts now."""
        self._attempts += 1
        self._futile += 1
        if self._futile > FUTILE_ATTEMPTS:
            self.fail(f"the workers died {FUTILE_ATTEMPTS} times in a row without a step forward")
        return self._attempts

    def fail(self, reason: str) -> None:
        """Say that trying again is of no use. The first reason counts."""
        self._failure = self._failure or reason

    def failure(self) -> str | None:
        """Why trying again is of no use, if it is."""
        return self._failure


def open_mailbox(attempts: int) -> ActorHandle:
    """A mailbox on the driver's node, so that no worker's node takes it along.

    Args:
        attempts: how many there were before, in earlier drivers of the run.
    """
    here = ray.get_runtime_context().get_node_id()
    actor = ray.remote(num_cpus=0, label_selector={"ray.io/node-id": here})(Mailbox)
    return actor.remote(attempts)

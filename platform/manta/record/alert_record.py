"""Alerts of a run, as its record keeps them: what is there was told, and is not told again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

AlertKind = Literal[
    "diverged", "bad_step", "stall", "stragglers", "budget", "failed", "gate", "trigger"
]
# Attribute of a log record (`extra` in a call of a logger) with the cause of an alert.
ALERT = "alert"
# Most alerts of a kind that a run raises: more would tell people nothing new.
MOST_ALERTS = 100


@dataclass(frozen=True)
class AlertCause:
    """What an alert is about; two with the same kind and cause are one.

    Attributes:
        kind: kind of the alert.
        cause: subject of the alert among those of its kind, such as ``step 12``.
    """

    kind: AlertKind
    cause: str


class RunAlert(BaseModel):
    """An alert of a run.

    Attributes:
        kind: kind of the alert.
        cause: subject of the alert among those of its kind.
        message: the alert in words.
        time: time in UTC.
        step: steps that the run had trained.
        tokens: tokens that the run had trained on.
    """

    kind: AlertKind
    cause: str
    message: str
    time: str
    step: int
    tokens: int

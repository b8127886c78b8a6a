"""Where the time of a run's devices went, and the share of it that trained new steps: its goodput.

Each second of a device counts once. While a group trains, its workers tell what they did; the
seconds between groups are those of the devices that the next group has.
"""

from __future__ import annotations

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
    WAITING_FOR_OTHERS,
)
from manta.record.run_state import RunState

# Every activity, as people read it, in the order in which they are shown.
ACTIVITIES = {
    COMPUTING: "training new steps",
    AGAIN: "training steps again",
    WAITING_FOR_DATA: "waiting for data",
    WAITING_FOR_OTHERS: "waiting for other workers",
    EVALUATING: "evaluating",
    SAVING: "saving",
    OTHER: "between steps",
    ENDING: "ending a group, or noticing its failure",
    STARTING: "starting",
    REGROUPING: "starting another group of workers",
}


def device_seconds(state: RunState) -> dict[str, float]:
    """Device-seconds of a run by activity; empty for records of older versions."""
    found = dict.fromkeys(ACTIVITIES, 0.0)
    for group in state.groups:
        found[STARTING if group.first else REGROUPING] += group.devices * group.waited
        for activity, seconds in group.spent.items():
            found[activity] += group.devices * seconds
        # Of a group that trains now, or whose driver was killed, the news is behind.
        found[OTHER] += group.devices * max(0.0, group.seconds - sum(group.spent.values()))
    return found if any(group.spent for group in state.groups) else {}


def goodput(state: RunState) -> float | None:
    """Share of the device time that trained new steps; None for records of older versions."""
    found = device_seconds(state)
    total = sum(found.values())
    return found[COMPUTING] / total if total else None

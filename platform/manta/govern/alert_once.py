"""Alerts of gates and retraining: each once, which the log of the model keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from manta.config.alerts import AlertCommandSection
from manta.config.errors import RunError
from manta.govern.triggers import FoundTrigger
from manta.record.alert_record import AlertCause
from manta.record.audit_log import ALERTED, note, read_log
from manta.record.gate_record import GateRecord
from manta.record.registered_version import ModelVersion
from manta.record.run_state import utc_now
from manta.show.alert_command import run_command
from manta.storage.place import Place, place_of


def alert_of_gate(
    decision: GateRecord, section: AlertCommandSection, tell: Callable[[str], None]
) -> None:
    """Alert people of a gate that a model failed, once for each evaluation.

    Args:
        decision: the gate's decision.
        section: the command.
        tell: takes lines for people.
    """
    if decision.passed:
        return
    failed = [
        f"{check.metric}: {check.asked}; found {check.found}"
        for check in decision.checks
        if not check.passed
    ]
    about = AlertCause("gate", f"{decision.name}, evaluation {decision.evaluation[:12]}")
    message = f"gate {decision.name}: failed: {'. '.join(failed)}"
    _alert_once(place_of(decision.model), about, message, section, tell)


def alert_of_trigger(
    trigger: FoundTrigger,
    champion: ModelVersion,
    place: Place,
    section: AlertCommandSection,
    tell: Callable[[str], None],
) -> None:
    """Alert people of a trigger that fires, once for each champion.

    Args:
        trigger: the trigger, and what it found.
        champion: the champion.
        place: the model's place in the registry.
        section: the command.
        tell: takes lines for people.
    """
    named = f"{champion.name}@{champion.version}"
    about = AlertCause("trigger", f"{trigger.name}, champion {named}")
    message = f"trigger {trigger.name} fired for {named}: {trigger.found}"
    _alert_once(place, about, message, section, tell)


def _alert_once(
    place: Place,
    about: AlertCause,
    message: str,
    section: AlertCommandSection,
    tell: Callable[[str], None],
) -> None:
    """Run the command, unless the log of `place` has the alert; a failure is only told."""
    facts = {"kind": about.kind, "cause": about.cause}
    if not section.command or _was_told(place, facts):
        return
    if place.exists():  # an evaluation may have been moved away from its model
        note(place, ALERTED, facts, tell)
    values = {"message": message, "time": utc_now(), "name": place.name, "place": str(place)}
    problem = run_command(section.command, {**facts, **values}, section.timeout)
    if problem is not None:
        tell(f"warning: alerts.command: {section.command[0]} {problem}")


def _was_told(place: Place, facts: Mapping[str, str]) -> bool:
    try:
        log = read_log(place)
    except RunError:
        return False
    return any(entry.action == ALERTED and entry.facts == facts for entry in log.entries)

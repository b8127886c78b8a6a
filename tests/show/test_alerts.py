"""Alerts of a run: each once for its cause, told to a real command, which may fail."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alert_scripts import alert_script, kinds, told

from manta.config import ConfigError, RunConfig
from manta.config.alerts import AlertsSection, check_command, with_absolute_command
from manta.corpus.manifest import Manifest
from manta.record.alert_record import MOST_ALERTS, AlertCause
from manta.record.context import RunContext
from manta.record.run_state import read_state
from manta.show.tracker import Tracker

SPIKE = AlertCause("bad_step", "step 3")
STALL = AlertCause("stall", "after step 3")
Open = Callable[..., Tracker]


@pytest.fixture
def open_tracker(make_config: Callable[..., RunConfig], manifest: Manifest) -> Open:
    def open_(context: RunContext | None = None, **alerts: Any) -> Tracker:
        config = make_config(alerts=alerts)
        sizes = {"total_steps": 40, "total_tokens": 400}
        return Tracker.open(config, manifest, **sizes, console=False, context=context)

    return open_


def notes(tracker: Tracker) -> list[str]:
    return [event.message for event in read_state(tracker.run_dir).events]


def test_each_cause_is_told_once_also_after_a_restart(open_tracker: Open, tmp_path: Path) -> None:
    script = alert_script(tmp_path)
    first = open_tracker(command=str(script))
    for message in ("a spike", "the same spike, trained again"):
        first.alert(SPIKE, message)
    first.finish("interrupted")
    again = open_tracker(command=[str(script)])
    again.alert(SPIKE, "and again")
    again.alert(STALL, '$(touch /tmp/no) `it` stands "still"')
    again.finish("finished")
    spike, stall = told(script)
    assert (spike["kind"], spike["cause"], spike["message"]) == ("bad_step", "step 3", "a spike")
    assert (spike["name"], spike["place"]) == ("one", str(again.run_dir))
    assert stall["message"] == '$(touch /tmp/no) `it` stands "still"'
    assert kinds(script) == ["bad_step one", "stall one"]
    kept = json.loads((again.run_dir / "run.json").read_text())["alerts"]
    assert [(one["kind"], one["cause"]) for one in kept] == [
        ("bad_step", "step 3"),
        ("stall", "after step 3"),
    ]


def test_more_of_a_kind_than_anybody_reads_are_not_told(open_tracker: Open) -> None:
    tracker = open_tracker()
    for step in range(MOST_ALERTS + 5):
        tracker.alert(AlertCause("bad_step", f"step {step}"), "a spike")
    tracker.alert(STALL, "another kind")
    tracker.finish("finished")
    assert len(read_state(tracker.run_dir).alerts) == MOST_ALERTS + 1


def test_a_trial_that_diverges_is_no_alert(open_tracker: Open) -> None:
    context = RunContext(job_type="trial", config={})
    tracker = open_tracker(context)
    tracker.alert(AlertCause("diverged", "step 3"), "not finite")
    tracker.alert(STALL, "no new step")
    tracker.finish("failed")
    assert [one.kind for one in read_state(tracker.run_dir).alerts] == ["stall"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sh", "-c", "echo no net; exit 7"], "alerts.command: sh failed (7): no net; the alert"),
        (["no-such-command"], "alerts.command: no-such-command can't be started"),
        # What the command has started is ended with it.
        (["sh", "-c", "sleep 600 & sleep 600"], "took longer than 0.2 s (alerts.timeout)"),
    ],
)
def test_a_command_that_fails_is_a_warning(
    open_tracker: Open, command: list[str], said: str
) -> None:
    tracker = open_tracker(command=command, timeout=0.2)
    began = time.monotonic()
    tracker.alert(SPIKE, "a spike")
    assert time.monotonic() - began < 0.2, "nobody waits for it"
    tracker.finish("finished")
    assert any(said in note and "a spike" in note for note in notes(tracker)), notes(tracker)
    assert read_state(tracker.run_dir).status == "finished"


def test_a_command_that_can_not_be_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").touch()
    for command, said in (
        ("no-such-command --now", "alerts.command = 'no-such-command': no such command is found"),
        ("./no.sh", r"/no\.sh': there is no such file"),
        (["./plain.txt", "x"], "the file can't be executed: chmod"),
    ):
        section = with_absolute_command(AlertsSection(command=command), tmp_path)
        with pytest.raises(ConfigError, match=said):
            check_command(section)
    section = with_absolute_command(AlertsSection(command="./alert.sh 'two words'"), tmp_path)
    script = alert_script(tmp_path)
    check_command(section)
    assert section.command == [str(script), "two words"]
    check_command(AlertsSection(command="cat"))
    for empty in ("", "'open"):
        with pytest.raises(ValueError, match=r"give a command|No closing quotation"):
            AlertsSection(command=empty)

"""A gate passes what it should, and says by its exit code and a record what it decided."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_scripts import alert_script, told
from made_evaluations import example, write_made
from typer.testing import CliRunner

from manta import cli
from manta.config.errors import ConfigError, MantaError, RunError
from manta.config.gate import load_gate
from manta.evaluate.gate_decision import decide
from manta.record.audit_log import add_entry, read_log
from manta.record.evaluation_record import find_evaluation
from manta.record.gate_record import gates_of, read_gate


def model(folder: Path, name: str, right: int, count: int = 100, **changes: Any) -> Path:
    """A model that answers the first of some prompts well."""
    rows = [
        example(f"{n:03d}", float(n < right), slices={"topic": "ab"[n % 2]}) for n in range(count)
    ]
    write_made(folder / name, rows, values={"ece": right / 1000}, **changes)
    return folder / name


def asked(folder: Path, **sections: Any) -> Path:
    path = folder / "gate.yaml"
    path.write_text(yaml.safe_dump({"name": "ship", **sections}))
    return path


def decided(folder: Path, where: Path, **sections: Any) -> bool:
    return decide(where, load_gate(asked(folder, **sections))).passed


@pytest.mark.parametrize(
    ("thresholds", "passes"),
    [
        ({"answers/success": {"at_least": 0.5}}, True),
        ({"answers/success": {"at_least": 0.51}}, False),
        ({"answers/success": {"at_most": 0.5, "at_least": 0.4}}, True),
        ({"answers/ece": {"at_most": 0.04}}, False),
        ({"answers/success[topic=a]": {"at_least": 0.5}}, True),
        ({"answers/success": {"at_least": 0.1}, "answers/ece": {"at_most": 0.01}}, False),
    ],
)
def test_thresholds(tmp_path: Path, thresholds: Any, passes: bool) -> None:
    assert decided(tmp_path, model(tmp_path, "new", 50), thresholds=thresholds) is passes


@pytest.mark.parametrize(
    ("right", "section", "passes"),
    [
        (60, {}, True),  # better
        (50, {}, True),  # the same
        (48, {}, True),  # worse within noise
        (30, {}, False),  # worse beyond noise
        (30, {"margin": 0.3}, True),  # but less than that
        (48, {"proven": True}, False),  # nothing shows that it is not worse
        (48, {"proven": True, "margin": 0.1}, True),  # but it is not worse by a tenth
        (60, {"proven": True}, True),
    ],
)
def test_regressions(tmp_path: Path, right: int, section: Any, passes: bool) -> None:
    model(tmp_path, "old", 50)
    regressions = {"answers/success": section}
    new = model(tmp_path, "new", right)
    assert decided(tmp_path, new, baseline="old", regressions=regressions) is passes


def test_what_has_no_interval_is_compared_as_it_is(tmp_path: Path) -> None:
    model(tmp_path, "old", 50)
    new = model(tmp_path, "new", 60)
    for section, passes in (({}, False), ({"margin": 0.02}, True)):
        assert (
            decided(tmp_path, new, baseline="old", regressions={"answers/ece": section}) is passes
        )
    with pytest.raises(ConfigError, match=r"answers/ece.proven: it is no mean over examples"):
        decided(tmp_path, new, baseline="old", regressions={"answers/ece": {"proven": True}})


def test_too_few_examples_do_not_pass(tmp_path: Path) -> None:
    model(tmp_path, "old", 4, count=8)
    new = model(tmp_path, "new", 8, count=8)
    assert not decided(tmp_path, new, baseline="old", regressions={"answers/success": {}})


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({}, "nothing is asked"),
        ({"thresholds": {"answers/success": {}}}, "give 'at_least', 'at_most' or both"),
        ({"regressions": {"answers/success": {}}}, "'regressions' need a 'baseline'"),
        ({"baseline": "no", "regressions": {"a/b": {}}}, "gate.yaml:1: .* there is nothing at"),
        ({"thresholds": {"answers/succes": {"at_least": 1}}}, "did you mean 'answers/success'"),
        ({"baseline": "old", "regressions": {"answers/loss": {}}}, "has no such metric"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, sections: Any, said: str) -> None:
    model(tmp_path, "old", 50)
    with pytest.raises(MantaError, match=said):
        decided(tmp_path, model(tmp_path, "new", 50), **sections)


def test_a_baseline_of_other_data_is_refused(tmp_path: Path) -> None:
    model(tmp_path, "old", 50, data_hash="1" * 16)
    new, regressions = model(tmp_path, "new", 50), {"answers/success": {}}
    with pytest.raises(RunError, match="nothing can be compared: answers: it read other data"):
        decided(tmp_path, new, baseline="old", regressions=regressions)


def test_the_command_decides_by_its_exit_code_and_writes_it_down(tmp_path: Path) -> None:
    new = model(tmp_path, "new", 50)
    path = asked(tmp_path, thresholds={"answers/success": {"at_least": 0.5}})
    good = CliRunner().invoke(cli.app, ["gate", str(new), str(path)])
    assert (good.exit_code, good.stdout.splitlines()[-1]) == (0, "gate ship: passed")
    change = "thresholds={answers/success: {at_least: 0.9}}"
    bad = CliRunner().invoke(cli.app, ["gate", str(new), str(path), change, "name=strict"])
    assert (bad.exit_code, bad.stdout.splitlines()[-1]) == (1, "gate strict: failed")
    assert "FAILED  answers/success: at least 90.0 %; found 50.0 %" in bad.stdout
    folder = find_evaluation(new)
    assert {one.name: one.passed for one in gates_of(folder)} == {"ship": True, "strict": False}
    assert [entry.facts["passed"] for entry in read_log(new).entries] == [True, False]
    file = folder / "gate-strict.json"
    file.write_text(file.read_text().replace('"passed": false', '"passed": true'))
    with pytest.raises(RunError, match="seal doesn't match"):
        read_gate(file)


def test_what_can_not_be_decided_is_not_told_as_a_failure(tmp_path: Path) -> None:
    path = asked(tmp_path, thresholds={"answers/sucess": {"at_least": 0.5}})
    command = [sys.executable, "-m", "manta.cli", "gate", str(model(tmp_path, "new", 50))]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean 'answers/success'?" in done.stderr


def test_who_is_alerted_hears_once_of_a_gate_that_fails(tmp_path: Path) -> None:
    script = alert_script(tmp_path)
    new = model(tmp_path, "new", 50)
    alerts = {"command": "./alert.sh"}  # relative to the config
    path = asked(tmp_path, thresholds={"answers/success": {"at_least": 0.5}}, alerts=alerts)
    strict = "thresholds={answers/success: {at_least: 0.9}}"
    for change in ((), (strict,), (strict,)):
        CliRunner().invoke(cli.app, ["gate", str(new), str(path), *change])
    (alert,) = told(script)
    assert (alert["kind"], alert["name"]) == ("gate", "new")
    said = "gate ship: failed: answers/success: at least 90.0 %; found 50.0 %"
    assert alert["message"] == said
    # What can't be run is refused first; what fails is a warning, and the decision stands.
    wrong = CliRunner().invoke(cli.app, ["gate", str(new), str(path), "alerts.command=./no.sh"])
    assert isinstance(wrong.exception, ConfigError)
    assert "alerts.command" in str(wrong.exception)
    failing = [strict, "name=other", 'alerts.command=["false"]']
    bad = CliRunner().invoke(cli.app, ["gate", str(new), str(path), *failing])
    assert bad.exit_code == 1
    assert "warning: alerts.command: false failed (1)" in bad.stdout
    assert read_log(new).problem == ""


def test_the_log_is_a_chain(tmp_path: Path) -> None:
    for number in range(3):
        add_entry(tmp_path, "export", {"to": f"model-{number}"})
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    whole = CliRunner().invoke(cli.app, ["audit", str(tmp_path)])
    assert whole.exit_code == 0
    assert "3 entries, an unbroken chain" in whole.stdout
    assert read_log(tmp_path).digest in whole.stdout
    edited = [lines[0], lines[1].replace("model-1", "model-9"), lines[2]]
    for changed, said in (
        (edited, "line 3 does not follow"),
        ([lines[0], lines[2]], "line 2 does not follow"),
        (lines[1:], "line 1 does not follow"),
        ([*lines[:2], lines[2][:-3]], "line 3 is no entry"),
    ):
        (tmp_path / "audit.jsonl").write_text("\n".join(changed) + "\n")
        broken = CliRunner().invoke(cli.app, ["audit", str(tmp_path)])
        assert broken.exit_code == 1
        assert said in broken.stdout
        with pytest.raises(RunError, match="restore the file from a copy"):
            add_entry(tmp_path, "export", {})
    for line in lines:
        assert json.loads(line)["facts"]["to"].startswith("model-")

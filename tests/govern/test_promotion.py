"""A model is promoted by its gate, is the same in the registry, and can be used from there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from evaluated_runs import evaluation, text_corpus, trained_run
from inline_prepare import without_ray
from typer.testing import CliRunner

from manta import cli
from manta.record.audit_log import read_log
from manta.record.evaluation_record import find_evaluation, read_evaluation
from manta.record.model_registry import ModelRegistry


def manta(*words: object, code: int = 0) -> str:
    """What the command prints, or how it fails."""
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    if code == 2:
        assert done.exception is not None
        return str(done.exception)
    assert done.exit_code == code, done.output or done.exception
    return done.stdout


def test_from_a_run_to_a_champion_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    run = trained_run(tmp_path, text_corpus(tmp_path))
    asked = evaluation(tmp_path, splits={"held_out": {}})
    gate = tmp_path / "gate.yaml"
    gate.write_text(
        yaml.safe_dump({"name": "ship", "thresholds": {"held_out/loss": {"at_most": 9}}})
    )
    home = tmp_path / "registry"
    monkeypatch.setenv("MANTA_REGISTRY", str(home))
    registry = ModelRegistry(home)

    manta("evaluate", run, asked)
    assert "no gate has decided on this step of it: ask one" in manta("promote", run, "a", code=2)
    assert "it did not pass the gate 'ship'" in (
        manta("gate", run, gate, "thresholds={held_out/loss: {at_most: 1}}", code=1)
        and manta("promote", run, "a", code=2)
    )
    assert registry.names() == []

    manta("gate", run, gate)
    assert manta("promote", run, "a@champion").splitlines() == [
        "registry:a@1",
        "passed: ship",
        "registry:a@champion is a@1",
    ]
    version = registry.read("a", 1)
    first = read_evaluation(find_evaluation(run))
    assert version.fingerprint == first.model.fingerprint
    assert version.values["held_out/loss"] == first.evaluators["held_out"].values["loss"]
    assert version.origin is not None
    assert (version.origin.run, version.origin.step) == ("base", version.step)
    assert "registry:a@1 (was there already)" in manta("promote", run, "a@champion")

    corpus = f"splits={{held_out: {{corpus: {tmp_path}/corpus, length: 32}}}}"
    manta("evaluate", "registry:a@champion", asked, corpus)
    again = read_evaluation(find_evaluation(registry.folder("a", 1) / "model"))
    assert again.model.fingerprint == first.model.fingerprint
    assert again.evaluators["held_out"].values == first.evaluators["held_out"].values
    told = ("web 1", "--tokens", 3, "--temperature", 0)
    assert manta("generate", "registry:a@champion", *told) == manta("generate", run, *told)
    manta("models", "a@champion", "--verify")  # what was added to the folder is no part of it

    reason = ("--without-gate", "a trial")
    manta("evaluate", f"{run}@6", asked)
    assert "no gate has decided" in manta("promote", f"{run}@6", "a@champion", code=2)
    manta("promote", f"{run}@6", "a@champion", *reason)
    assert registry.read("a", 2).without_gate == "a trial"
    assert manta("rollback", "a@champion") == "a@champion is a@1, no longer a@2\n"
    manta("promote", "registry:a@2", "a@trial")
    listed = manta("models")
    assert "a trial" in listed.replace("\n", " ")
    assert registry.aliases("a") == {"champion": [1], "trial": [2]}
    actions = [entry.action for entry in read_log(home / "a").entries]
    assert actions == [
        "register",
        "set alias",
        "register",
        *("set alias", "roll back", "set alias"),
    ]
    assert [e.action for e in read_log(run).entries].count("promote") == 3

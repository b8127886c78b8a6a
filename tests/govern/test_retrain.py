"""Triggers fire by what they name, and retraining ends with the better model as champion."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_scripts import alert_script, told
from evaluated_runs import evaluation, lines, text_corpus, trained_run
from inline_prepare import without_ray
from typer.testing import CliRunner

from manta import cli
from manta.config.errors import ConfigError, RunError
from manta.config.retraining import load_retrain
from manta.govern import retrain
from manta.record.audit_log import read_log
from manta.record.model_registry import ModelRegistry


def manta(*words: object) -> str:
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output or done.exception
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is the champion, and the configs that its successors need."""
    folder = tmp_path_factory.mktemp("retraining")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        corpus = text_corpus(folder)
        run = trained_run(folder, corpus)
    evaluation(folder, splits={"held_out": {"corpus": str(corpus), "length": 32}})
    gate = {"name": "ship", "thresholds": {"held_out/loss": {"at_most": 9}}}
    (folder / "gate.yaml").write_text(yaml.safe_dump(gate))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["schedule"] |= {"lr": 1e-4, "horizon": 32 * 8 * 4}
    for section in ("eval", "checkpoint"):
        config[section] = {"every": 32 * 8 * 4}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    manta("evaluate", run, folder / "eval.yaml")
    manta("gate", run, folder / "gate.yaml")
    manta("promote", run, "chat@champion", "--registry", folder / "registry")
    new = [{"text": f"NEWS {n} THE {'FOX ' * (n % 9)}"} for n in range(40)]
    lines(folder / "new.jsonl", new)
    source = {"name": "news", "format": "jsonl", "paths": [str(folder / "new.jsonl")]}
    split = {"train": 0.6, "validation": 0.2, "test": 0.2}
    more = {"out": "replaced", "sources": [source], "split": split}
    (folder / "more.yaml").write_text(yaml.safe_dump(more))
    return folder


def asked(home: Path, triggers: dict[str, Any], **changes: Any) -> Path:
    path = home / "triggers.yaml"
    config = {
        "champion": "chat@champion",
        "registry": "registry",
        "triggers": triggers,
        "train": "run.yaml",
        "evaluate": "eval.yaml",
        "gate": "gate.yaml",
        **changes,
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_triggers_fire_by_what_they_name(home: Path) -> None:
    manta("evaluate", f"registry:{home}/registry/chat@champion", home / "eval.yaml")
    later = ModelRegistry(home / "registry").read("chat", 1)
    assert later.version == 1
    os.utime(home / "web.jsonl", (0, 0))  # older than the champion
    cases: list[tuple[dict[str, Any], bool, str]] = [
        ({"age": {"days": 1}}, False, "promoted 0.0 days ago"),
        ({"age": {"days": 1e-9}}, True, "promoted"),
        ({"metric": {"name": "held_out/loss", "at_most": 1}}, True, "asked is at most 1"),
        ({"metric": {"name": "held_out/loss", "at_most": 99}}, False, "asked is at most 99"),
        ({"new_data": {"paths": ["web.jsonl"], "megabytes": 1e-6}}, False, "in 0 newer files"),
        ({"new_data": {"paths": ["new.*"], "megabytes": 1e-6}}, True, "in 1 newer files"),
        ({"drift": {"new": "new.jsonl"}}, True, "drift: "),
    ]
    os.utime(home / "new.jsonl")
    for triggers, fires, said in cases:
        plan = retrain.plan_retraining(load_retrain(asked(home, triggers)))
        assert [one.fired for one in plan.triggers] == [fires], triggers
        assert said in plan.triggers[0].found
    shown = json.loads(manta("retrain", asked(home, cases[0][0]), "--json"))
    assert (shown["fired"], shown["triggers"][0]["name"]) == (False, "age")
    assert "nothing to do" in manta("retrain", asked(home, cases[0][0]))


def test_who_is_alerted_hears_once_of_a_trigger_that_fires(home: Path, tmp_path: Path) -> None:
    script = alert_script(tmp_path)
    alerts = {"command": [str(script)]}
    manta("retrain", asked(home, {"age": {"days": 1}}, alerts=alerts))
    for _ in range(2):
        manta("retrain", asked(home, {"age": {"days": 1e-9}}, alerts=alerts))
    (alert,) = told(script)
    assert (alert["kind"], alert["cause"]) == ("trigger", "age, champion chat@1")
    assert alert["message"].startswith("trigger age fired for chat@1: promoted ")


def test_mistakes_are_named(home: Path) -> None:
    for triggers, changes, said in (
        ({}, {}, "give one of 'drift', 'age'"),
        ({"age": {"days": 1}}, {"gate": "no.yaml"}, r"gate = 'no.yaml': no such file"),
        ({"metric": {"name": "a/b"}}, {}, "give 'at_least', 'at_most' or both"),
        ({"age": {"days": 1}}, {"champion": "chat"}, "champion"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_retrain(asked(home, triggers, **changes))


@pytest.mark.slow
def test_a_challenger_becomes_the_champion_or_does_not(home: Path) -> None:
    """The commands are run in processes of their own, with Ray."""
    age = {"age": {"days": 1e-9}}
    config = asked(home, age, prepare="more.yaml")
    done = CliRunner().invoke(cli.app, ["retrain", str(config), "--go"])
    assert done.exit_code == 0, done.output or done.exception
    registry = ModelRegistry(home / "registry")
    assert registry.aliases("chat") == {"champion": [1, 2]}
    second = registry.read("chat", 2)
    assert second.origin is not None
    assert second.origin.run == "chat-2"
    assert second.fingerprint != registry.read("chat", 1).fingerprint
    run = yaml.safe_load((home / "chat-2/config.yaml").read_text())
    assert run["model"]["pretrained"] == str(registry.folder("chat", 1) / "model")
    assert run["corpus"] == str(home / "chat-2-corpus")

    assert (home / "chat-2" / retrain.PAGE).exists()

    # The next challenger is one that fails its gate: the champion stays, and there is a pause.
    strict = {"name": "strict", "thresholds": {"held_out/loss": {"at_most": 0.1}}}
    (home / "strict.yaml").write_text(yaml.safe_dump(strict))
    shutil.copytree(home / "chat-2/evaluations", home / "chat-3/evaluations")
    config = asked(home, age, gate="strict.yaml")
    loaded = load_retrain(config)
    plan = retrain.plan_retraining(loaded)
    (gate,) = (step for step in plan.steps if step.words[0] == "gate")
    plan = replace(plan, steps=[gate, plan.steps[-1]])
    with pytest.raises(RunError, match="mend what it says"):  # the baseline was not evaluated
        retrain.carry_out(loaded, plan)
    manta("evaluate", f"registry:{home}/registry/chat@2", home / "eval.yaml")
    assert not retrain.carry_out(loaded, plan)
    assert registry.aliases("chat") == {"champion": [1, 2]}
    assert "a challenger failed the gate 'strict' 0.0 days ago" in manta("retrain", config, "--go")
    assert "chat-3-2" in manta("retrain", config, "pause_days=0")
    assert [e.action for e in read_log(home / "registry/chat").entries].count("retrain") == 3

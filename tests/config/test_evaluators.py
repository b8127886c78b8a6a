"""Evaluators in a run's config: a path or the keys themselves; files are found, mistakes named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from written_configs import RUN

from manta.config import ConfigError, RunConfig, load
from manta.config.evaluation_files import check_there, evaluation_of
from manta.config.load import dump
from manta.config.load_evaluation import load_evaluation

EVAL = {
    "name": "quality",
    "generations": {"answers": {"file": "prompts.jsonl", "tokens": 8}},
    "own": {"mine": {"measure": "./mine.py:measure"}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prompts.jsonl").touch()
    (tmp_path / "mine.py").write_text("def measure(model):\n    return {}\n")
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(EVAL))
    return tmp_path


def with_evaluators(folder: Path, evaluators: Any, *overrides: str) -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(RUN + yaml.safe_dump({"eval": {"evaluators": evaluators}}))
    return load(path, RunConfig, overrides)


def test_a_path_and_the_keys_themselves_are_the_same(folder: Path) -> None:
    asked = load_evaluation(folder / "eval.yaml")
    assert asked.generations["answers"].file == str(folder / "prompts.jsonl")
    for given in ("eval.yaml", {"config": "eval.yaml"}, {"config": EVAL}):
        config = with_evaluators(folder, given)
        assert evaluation_of(config) == asked
        check_there(config)


def test_what_is_recorded_needs_none_of_the_files(folder: Path) -> None:
    config = with_evaluators(folder, "eval.yaml")
    (folder / "kept.yaml").write_text(dump(config))
    for name in ("eval.yaml", "prompts.jsonl", "mine.py"):
        (folder / name).unlink()
    assert load(folder / "kept.yaml", RunConfig) == config
    with pytest.raises(ConfigError, match=r"generations\.answers\.file = .*no such file"):
        check_there(config)


@pytest.mark.parametrize(
    ("evaluators", "message"),
    [
        ("other.yaml", "run.yaml:9: eval.evaluators.config = 'other.yaml': no such file"),
        ({"config": {"splits": {"a": {}}}}, "run.yaml: key 'name' is missing"),
        (
            {"config": {**EVAL, "generations": {"a": {"file": "p", "token": 3}}}},
            "run.yaml:14: unknown key 'generations.a.token'; did you mean 'generations.a.tokens'?",
        ),
        ({"config": {"name": "none"}}, "nothing to measure"),
        ({"every": "1M"}, "key 'eval.evaluators.config' is missing"),
        ({"config": "eval.yaml", "every": 0}, "eval.evaluators.every = 0"),
        ({"config": "run.yaml"}, "this is the config of a run, not of an evaluation"),
    ],
)
def test_a_mistake_is_named_with_its_place(folder: Path, evaluators: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        with_evaluators(folder, evaluators)
    assert message in str(refused.value)
    assert "eval.evaluators" in str(refused.value)


def test_an_override_may_name_another_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with any path on the command line, from the current folder on."""
    (folder / "below").mkdir()
    (folder / "below" / "small.yaml").write_text(yaml.safe_dump({"name": "s", "splits": {"a": {}}}))
    monkeypatch.chdir(folder / "below")
    config = with_evaluators(folder, "eval.yaml", "eval.evaluators=small.yaml")
    found = evaluation_of(config)
    assert found is not None
    assert found.name == "s"

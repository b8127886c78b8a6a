"""Every config key is explained where it is declared, and the page of all keys is up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from manta.config import CorpusConfig, RunConfig, SweepConfig
from manta.config.mistakes import keys
from manta.config.reference import CONFIGS, REQUIRED, as_markdown, config_keys
from manta.config.units import format_tokens

PAGE = Path(__file__).parents[2] / "docs/config.md"
ALL = [key for config in CONFIGS.values() for key in config_keys(config)]


@pytest.mark.parametrize("key", ALL, ids=[key.name for key in ALL])
def test_each_key_says_what_it_is(key) -> None:
    assert len(key.meaning) > 10, "write Field(description=…) where it is declared"
    assert not key.meaning.startswith(("of ", "it ", "its ", "that ")), "say of what"
    assert "value" not in key.values, "its type has no words yet"


@pytest.mark.parametrize("config", [RunConfig, SweepConfig, CorpusConfig])
def test_no_key_is_left_out(config) -> None:
    here = {key.name.replace("[]", "") for key in config_keys(config)}
    by_reference = (
        "schedule.history.lr.",
        "schedule.history.batch.",
        "data.mixture.history.mixture.",
    )
    there = {key for key in keys(config) if not key.startswith(by_reference)}
    assert there <= here


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == as_markdown(), "run `make reference`"


def test_defaults_are_as_they_are_written() -> None:
    found = {key.name: key.default for key in config_keys(RunConfig)}
    assert found["eval.tokens"] == format_tokens(500_000)
    assert found["run.name"] == REQUIRED
    assert found["optimizer.betas"] == "[0.9, 0.95]"
    assert found["scaling.max"] == "null"


def manta_keys(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "manta.cli", "keys", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"COLUMNS": "200"})


def test_the_command_lists_what_begins_so() -> None:
    said = manta_keys("schedule.lr").stdout
    assert "schedule.lr[].shape" in said
    assert "schedule.batch" not in said
    wrong = manta_keys("schedule.lrr")
    assert wrong.returncode == 1
    assert "no config key begins with 'schedule.lrr'; did you mean schedule.lr" in wrong.stderr

"""The README tells the truth: its commands run, its paths exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from manta import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
# Made by the commands above the one that names them; runs/demo by `make demo`.
MADE = {
    *("corpora/demo", "runs/demo", "runs/slower", "slower-model"),
    *("corpora/mine", "runs/mine", "mine-model", "corpora/more", "runs/further"),
}


def commands() -> list[list[str]]:
    """Every command of the README's shell blocks, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 10
    assert {words[0] for words in commands()} == {"make", "manta", "ray"}


@cache
def ray_commands() -> set[str]:
    """What Ray's own command line knows."""
    from ray.scripts.scripts import cli as ray_cli

    return set(ray_cli.commands)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_and_path_exists(words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "manta":
        known = get_command(cli.app).commands[words[1]]
        options = {option for parameter in known.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
    elif words[:3] == ["ray", "job", "submit"]:
        assert (ROOT / words[words.index("python") + 1]).exists()
    else:
        assert words[1] in ray_commands()
    for word in words[2:]:
        if re.fullmatch(r"[\w./-]+/[\w./-]+", word) and not word.startswith("/"):
            assert (ROOT / word).exists() or word in MADE, word


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w.-]+(?:/[\w.-]+)+)`", README))))
def test_every_path_in_the_text_exists(path: str) -> None:
    assert path.startswith(".venv/") or (ROOT / path).exists()


CHEAP = [words for words in commands() if words[:2] == ["manta", "schedule"]]


@pytest.mark.parametrize("words", CHEAP, ids=" ".join)
def test_cheap_commands_run(words: list[str], tmp_path: Path) -> None:
    where = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "manta.cli", *where], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("schedule-*.html"))


@pytest.mark.parametrize("name", ["prepare", "train"])
def test_configs_in_the_readme_resolve(name: str) -> None:
    config = {"prepare": "jobs/demo/corpus.yaml", "train": "jobs/demo/run.yaml"}[name]
    done = subprocess.run(
        [sys.executable, "-m", "manta.cli", name, str(ROOT / config), "--print-config"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "shard_tokens: 1M" in done.stdout or "horizon: 440K" in done.stdout

"""README and guide tell the truth: their commands run, their paths and links exist."""

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
GUIDE = (ROOT / "docs" / "guide.md").read_text()
PATH = r"`([\w.-]+(?:/[\w.-]+)+)`"
# Made by the commands above the one that names them; runs/demo by `make demo`.
MADE = {
    *("corpora/demo", "runs/demo", "runs/demo-decay", "runs/slower", "slower-model"),
    "runs/slower-lower/config.yaml",
    *("corpora/mine", "runs/mine", "mine-model", "corpora/more", "runs/further"),
}


def commands() -> list[list[str]]:
    """Every command of their shell blocks, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", README + GUIDE, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 30
    assert {words[0] for words in commands()} == {"make", "manta", "ray", "source"}


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
    elif words[0] == "source":
        assert words[1:] == [".venv/bin/activate"]  # `make` puts it there
    elif words[:3] == ["ray", "job", "submit"]:
        assert (ROOT / words[words.index("python") + 1]).exists()
    else:
        assert words[1] in ray_commands()
    for word in words[2:]:
        if re.fullmatch(r"[\w./-]+/[\w./-]+", word) and not word.startswith("/"):
            assert (ROOT / word).exists() or word in MADE, word


@pytest.mark.parametrize("path", sorted(set(re.findall(PATH, README + GUIDE))))
def test_every_path_in_the_text_exists(path: str) -> None:
    assert path.startswith(".venv/") or (ROOT / path).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_a_page_of_docs_is_found_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w.-]+)\)", README))
    assert {f"docs/{path.name}" for path in (ROOT / "docs").iterdir()} == linked


def test_the_readme_is_read_in_two_minutes() -> None:
    """At 300 words a minute. What takes more words is said in a page of docs."""
    assert len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) <= 600


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

"""What docs/operations.md quotes is what Manta says, and its commands and paths exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from manta import cli

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs/operations.md").read_text()
FAILURES = TEXT[TEXT.index("## What to do when") :]
# What differs from one time to the next, or joins two texts.
VARIABLE = re.compile(r"…|\d+|'[^']*'|http://\S+|\S+\.yaml\S*|: |\b(?:CPU|GPU|none)\b")
MESSAGES = [" ".join(found.split()) for found in re.findall(r"\*\*\d+\. `([^`]+)`\*\*", FAILURES)]


@cache
def said() -> str:
    """Every text in Manta's sources; the parts of an f-string on lines of their own."""
    trees = [ast.parse(file.read_text()) for file in (ROOT / "platform").rglob("*.py")]
    constants = (
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)
    )
    return "\n".join(node.value for node in constants if isinstance(node.value, str))


def test_there_are_messages_to_check() -> None:
    assert len(MESSAGES) >= 10


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_is_one_of_ours(message: str) -> None:
    parts = [part.strip(" =:;,()") for part in VARIABLE.split(message)]
    known = [part for part in parts if len(part.split()) > 1]
    assert known
    assert [part for part in known if part not in said()] == []


def test_every_command_exists() -> None:
    commands = get_command(cli.app).commands
    used = set(re.findall(r"`?manta ([a-z]+)\b", TEXT))
    assert used <= set(commands)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\bcluster/[\w.-]+\b|\bjobs/[\w./-]+\b", TEXT)))
)
def test_every_path_exists(path: str) -> None:
    assert (ROOT / path.rstrip(".")).exists()

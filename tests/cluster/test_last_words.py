"""A command that is ended before it can say anything is spoken for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys
from manta.cluster.last_words import watched
with watched() as watch:
    watch.logs_are_in("/some/logs")
    {}
print("not more than that", file=sys.stderr)
"""


def ended(by: str) -> str:
    """What is on standard error once nobody can write to it any more."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(by)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "platform")},
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    ).stderr


@pytest.mark.parametrize("by", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_an_end_without_a_word_is_told(by: str) -> None:
    (line,) = ended(by).splitlines()
    assert line.startswith("error: this command was killed: perhaps because memory ran out")
    assert line.endswith("Ray's logs: /some/logs. Run the same command again to continue.")


@pytest.mark.parametrize(
    ("by", "says"),
    [
        ("pass", "not more than that\n"),
        ("raise SystemExit", ""),
        ("sys.exit('error: its own words')", "error: its own words\n"),
    ],
)
def test_whoever_can_speak_speaks_alone(by: str, says: str) -> None:
    assert ended(by) == says

"""What only a GPU can show is run by one script, and each of its lines runs on a CPU too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/gpu_session.sh"
# Something of the table of each part.
SAID = {
    "correctness": r"\| test_a_bad_step_changes_nothing\[.*?\] \| passed \|",
    "speed": r"Best engine \(snapshots\) / best bare loop \(snapshots\): \d",
    "profile": r"\| aten::mm \| \d+ \| [\d.]+ \|",
    "ray": r"\| the run went on each time \| yes \| 4 worker groups \|",
    "two": r"\| sharded: losses of alone \| yes \| 0\.",
}


def session(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OUT": str(out), "WHEELS": str(out / "none")}
    environment["PYTHON"] = sys.executable
    command = [str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.usefixtures("copies")  # of which the workers of its runs can be
@pytest.mark.parametrize("part", SAID)
def test_a_part_of_the_session(tmp_path: Path, part: str) -> None:
    done = session(tmp_path, part, "--device", "cpu", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(SAID[part], done.stdout)
    assert (tmp_path / f"{part}.md").read_text().strip() in done.stdout


def test_an_unknown_part_is_answered_with_those_there_are(tmp_path: Path) -> None:
    done = session(tmp_path, "everything")
    assert done.returncode == 2
    assert all(f"gpu_session.sh {part}" in done.stdout for part in SAID)


def test_a_part_that_fails_says_so(tmp_path: Path) -> None:
    done = session(tmp_path, "speed", "no such column", "--device", "cpu", "--quick")
    assert done.returncode == 1
    assert "failed: speed 64 no such column" in done.stderr
    assert "invalid choice: 'no such column'" in (tmp_path / "speed.log").read_text()

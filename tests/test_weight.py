"""An installation gets no heavier unawares, and the locks say exactly what is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from manta.cluster.lockfile import normal, read_lock

ROOT = Path(__file__).resolve().parents[1]
RUN, TEST = "requirements.lock", "requirements-test.lock"
LOCKS = (RUN, TEST, "cluster/cuda.lock", "cluster/gcp.lock")
# A new dependency is a decision: it raises this, and says in the commit what it is worth.
MOST_PACKAGES = 115
# Of Manta's own files. What a feature adds is text; a file of data would show here.
MOST_BYTES = 3_500_000


def test_no_more_packages_run_than_were_decided_on() -> None:
    assert len(read_lock(ROOT / RUN)) <= MOST_PACKAGES


def test_manta_itself_stays_small() -> None:
    files = [path for path in (ROOT / "platform" / "manta").rglob("*") if path.is_file()]
    own = [path for path in files if path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in own) < MOST_BYTES


def test_importing_manta_loads_nothing_but_python() -> None:
    code = (
        "import sys; before = set(sys.modules); import manta; "
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}"
        " - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "platform")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['manta']"


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_of_a_lock_has_checksums(name: str) -> None:
    text = (ROOT / name).read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(read_lock(ROOT / name))
    assert not [block for block in blocks if "--hash=sha256:" not in block]


def test_no_package_is_in_two_locks() -> None:
    pins = [name for lock in LOCKS for name in read_lock(ROOT / lock)]
    assert len(pins) == len(set(pins))


def test_the_locks_have_what_the_project_asks_for() -> None:
    """Each dependency in `pyproject.toml` is pinned in the lock where it belongs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run, test = read_lock(ROOT / RUN), read_lock(ROOT / TEST)
    extras = project["optional-dependencies"]
    assert set(map(_name, [*project["dependencies"], *extras["aws"]])) <= run.keys()
    assert set(map(_name, extras["dev"])) <= test.keys()


def _name(requirement: str) -> str:
    return normal(re.split(r"[<>=!~ ]", requirement)[0])


def test_a_commit_is_checked_as_make_lint_checks() -> None:
    """With the same tools, from the project's own environment: nothing comes by a network."""
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    made = re.findall(r"\$\(BIN\)/(\w+(?: (?:format|check)\b)?)", lint[1])
    hooked = [
        re.match(r"\.venv/bin/(\w+(?: (?:format|check)\b)?)", hook["entry"])
        for hook in local["hooks"]
    ]
    assert [found and found[1] for found in hooked] == made


def test_torch_is_locked_in_both_builds() -> None:
    """Those for CPUs, and those for CUDA, each with a checksum for this Python and platform."""
    block = re.search(r"^torch==.*?(?=^\w)", (ROOT / RUN).read_text(), re.M | re.S)
    assert block is not None
    assert block[0].count("--hash=sha256:") > 20
    assert "+" not in block[0]

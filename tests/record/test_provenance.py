"""Code and machine: present, absent, dirty."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from manta.record import provenance


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, timeout=300)


def test_git_commit_and_dirty_flag(tmp_path: Path) -> None:
    assert provenance.git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert provenance.git_state(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "x")
    clean = provenance.git_state(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "untracked").write_text("1")
    assert provenance.git_state(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert provenance.git_state(tmp_path) == {**clean, "dirty": True}


def test_no_git_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(Path.cwd()) is None

"""What travels with a job: code and configs, nothing that is ignored, from wherever they lie."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from written_configs import RUN

from manta.cluster import package
from manta.cluster.package import pack
from manta.config import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout with code, data, and rules about what is which."""
    root = tmp_path / "checkout"
    files = {
        ".gitignore": "__pycache__/\n/runs/\n*.tmp\n",
        "platform/manta/cli.py": "code",
        "platform/manta/cli.tmp": "ignored",
        "platform/manta/__pycache__/cli.pyc": "ignored",
        "platform/manta/deep/.gitignore": "scratch/\n",
        "platform/manta/deep/kept.py": "code",
        "platform/manta/deep/scratch/notes.py": "ignored by a rule of its own folder",
        "jobs/train.py": "door",
        "jobs/demo/run.yaml": RUN,
        "jobs/.rayignore": "private/\n",
        "jobs/private/x.py": "ignored by Ray's rules",
        "tune_spaces/lr.py": "space",
        "runs/demo/checkpoints/model": "data",
        "corpora/demo/train.arrow": "data",
        "README.md": "no code",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(package, "PACKAGE", root / "platform" / "manta")
    return root


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_code_travels_and_what_is_ignored_does_not(checkout: Path, into: Path) -> None:
    config = checkout / "jobs" / "demo" / "run.yaml"
    packed = pack(into, "train", [config], {".source.json": "{}"})
    assert names(into) - {".source.json"} == {
        "platform/manta/cli.py",
        "platform/manta/deep/kept.py",
        "jobs/train.py",
        "jobs/demo/run.yaml",
        "tune_spaces/lr.py",
    }
    assert packed.script == ("jobs/train.py",)
    assert packed.placed == {config: Path("jobs/demo/run.yaml")}
    assert packed.files == len(names(into))
    assert packed.bytes == sum(p.stat().st_size for p in into.rglob("*") if p.is_file())
    assert not packed.is_large


def test_configs_from_elsewhere_keep_their_places_to_each_other(
    checkout: Path, into: Path, tmp_path: Path
) -> None:
    for name in ("mine/sweeps/a.yaml", "mine/base.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    configs = [tmp_path / "mine/sweeps/a.yaml", tmp_path / "mine/base.yaml"]
    packed = pack(into, "train", configs, {})
    assert [str(packed.placed[path]) for path in configs] == [
        "configs/sweeps/a.yaml",
        "configs/base.yaml",
    ]
    assert (into / "configs/base.yaml").read_text() == "mine/base.yaml"


def test_much_is_warned_of_and_too_much_refused(
    checkout: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "jobs" / "data").mkdir()
    (checkout / "jobs" / "data" / "big.bin").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(package, "LARGE", 2**20)
    packed = pack(into, "train", [], {})
    assert packed.is_large
    assert "3.0 MB of code and configs in" in packed.described()
    assert "jobs/data (3.0 MB)" in package.advice(packed)
    monkeypatch.setattr(package, "LARGEST", 2 * 2**20)
    shutil.rmtree(into)
    into.mkdir()
    with pytest.raises(
        ConfigError, match=r"than the 2 MB that Ray accepts: the largest folders are jobs/data"
    ):
        pack(into, "train", [], {})


def test_an_installed_package_travels_and_runs(into: Path, tmp_path: Path) -> None:
    """Without a checkout: the package that is imported goes, and is all that is needed."""
    site = tmp_path / "site-packages"
    shutil.copytree(ROOT / "platform" / "manta", site / "manta")
    (tmp_path / "run.yaml").write_text(RUN)
    code = f"""
from pathlib import Path
from manta.cluster.package import pack
print(*pack(Path({str(into)!r}), "train", [Path({str(tmp_path / "run.yaml")!r})], {{}}).script)
"""
    script = python("-c", code, PYTHONPATH=str(site)).split()
    assert script == ["-m", "manta.cli", "train"]
    shutil.rmtree(site)
    printed = python(*script, "configs/run.yaml", "--print-config", cwd=into)
    assert "name: demo" in printed


def python(*arguments: str, cwd: Path | None = None, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

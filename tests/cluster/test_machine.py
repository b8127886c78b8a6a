"""`manta doctor` alone: what it finds on a machine, fit and unfit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command import copy_of_manta

from manta.cluster import check_machine
from manta.cluster.findings import CheckResult
from manta.cluster.lockfile import find_lock, read_lock
from manta.config import ConfigError

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


def test_this_machine_runs_the_tests_so_it_is_fit(monkeypatch):
    monkeypatch.chdir(ROOT)
    said, _ = copy_of_manta("doctor").communicate(timeout=300)
    lines = {tuple(line.split()[:2]) for line in said.splitlines()}
    assert {("ok", "Python"), ("ok", "Ray"), ("ok", "Torch")} <= lines, said


@pytest.mark.parametrize(
    ("check", "amount", "verdict"),
    [
        (check_machine._files, 1024, CheckResult.WARNING),
        (check_machine._files, 65536, CheckResult.OK),
        (check_machine._shared_memory, GIB // 16, CheckResult.WARNING),
        (check_machine._shared_memory, 8 * GIB, CheckResult.OK),
    ],
)
def test_limits(check, amount, verdict):
    assert check(amount).verdict is verdict


@pytest.mark.parametrize("level", ["FAILED", "WARNING"])
def test_disk_and_memory(level, monkeypatch, tmp_path):
    monkeypatch.setattr(check_machine, f"DISK_{level}", 2**60)
    monkeypatch.setattr(check_machine, f"MEMORY_{level}", 2**60)
    assert check_machine._disk(tmp_path).verdict is CheckResult[level]
    assert check_machine._memory().verdict is CheckResult[level]


def test_packages_that_differ_from_the_lock(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("# pinned\nray==0.0.1\nno-such-package==1.0\nPyYAML==6.0.3\n")
    (finding,) = check_machine._packages(lock)
    assert finding.verdict is CheckResult.FAILED
    assert "2 packages differ from requirements.lock: ray" in finding.found
    assert "no-such-package is missing (pinned: 1.0)" in finding.found
    command = f"{sys.executable} {tmp_path}/cluster/install.py {lock}"
    assert finding.remedy == f"install the pinned versions: {command}"


def test_a_builds_own_mark_is_no_other_version():
    pins = read_lock(find_lock(ROOT / "cluster.yaml"))
    assert not [name for name, _ in check_machine.differing(pins) if name == "torch"]


def test_a_lock_is_read_with_the_checksums_of_its_files(tmp_path):
    (tmp_path / "requirements.lock").write_text(
        "# head\nRay==2.60.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\npyyaml==6.0.3\n"
    )
    assert read_lock(tmp_path / "requirements.lock") == {"ray": "2.60.0", "pyyaml": "6.0.3"}


def test_a_lock_that_pins_nothing_is_refused(tmp_path):
    (tmp_path / "requirements.lock").write_text("ray>=2\n")
    with pytest.raises(ConfigError, match=r"requirements\.lock:1: 'ray>=2' pins no version"):
        read_lock(tmp_path / "requirements.lock")


def test_no_lock():
    (finding,) = check_machine._packages(None)
    assert finding.verdict is CheckResult.WARNING


def test_a_torch_that_does_not_fit_the_gpu(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for answer, words in {
        '["2.13.0+cpu", null, 0, ""]': "is the CPU build",
        '["2.13.0", "12.8", 0, ""]': "for CUDA 12.8 finds no GPU",
    }.items():
        monkeypatch.setattr(check_machine, "LOOK_AT_TORCH", f"print({answer!r})")
        finding = check_machine._torch()
        assert finding.verdict is CheckResult.FAILED
        assert words in finding.found


@pytest.mark.parametrize(("check", "program"), [("_ray", "START_RAY"), ("_torch", "LOOK_AT_TORCH")])
def test_what_does_not_start_says_why(check, program, monkeypatch):
    monkeypatch.setattr(check_machine, program, "raise OSError('no room')")
    finding = getattr(check_machine, check)()
    assert finding.verdict is CheckResult.FAILED
    assert "OSError: no room" in finding.found


def test_a_pyarrow_without_object_stores(monkeypatch):
    assert check_machine._schemes().verdict is CheckResult.OK
    monkeypatch.setitem(check_machine.STORES, "s3", "NoSuchFileSystem")
    finding = check_machine._schemes()
    assert finding.verdict is CheckResult.FAILED
    assert "can't open s3://" in finding.found

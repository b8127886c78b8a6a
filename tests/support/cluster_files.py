"""Cluster files for the doctor's tests: the shipped ones, copies with mistakes, what is found."""

from __future__ import annotations

from pathlib import Path

from manta.cluster.doctor import diagnose
from manta.config import RunConfig, load

ROOT = Path(__file__).resolve().parents[2]
AWS, ON_PREM, KUBERAY = "cluster.yaml", "cluster/on-prem.yaml", "cluster/kuberay.yaml"
SPOT_RESOURCES = "    resources: {CPU: 8, GPU: 1}    # <-- what InstanceType has"


def found(path, verdict, run=None):
    return {(f.check, f.found): f.remedy for f in diagnose(Path(path), run) if f.verdict is verdict}


def edited(tmp_path, path, *changes):
    """A copy of a shipped file in which each (old, new) was replaced, once."""
    text = (ROOT / path).read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    copy = tmp_path / Path(path).name
    copy.write_text(text)
    return copy


def gpu_run(*overrides):
    gpu = "scaling.resources_per_worker={CPU: 1, GPU: 1}"
    return load(ROOT / "jobs/demo/run.yaml", RunConfig, [gpu, *overrides])

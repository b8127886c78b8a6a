"""What a worker sees of the machine, by the resources that it asked for."""

from __future__ import annotations

import os

import pytest
import ray

from manta.elastic import preload
from manta.elastic.environment import runtime_env_of


def seen() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_worker_without_gpus_sees_none(ray_local: None) -> None:
    """Also where the devices of the machine are visible to whoever started Ray."""
    outer = {"env_vars": {"CUDA_VISIBLE_DEVICES": "0,1"}}
    task = ray.remote(num_cpus=0.1, runtime_env=runtime_env_of({"CPU": 1}))(seen)

    @ray.remote(num_cpus=0.1, runtime_env=outer)
    def from_there() -> list[str | None]:
        return [seen(), ray.get(task.remote())]

    assert ray.get(from_there.remote()) == ["0,1", ""]
    assert "CUDA_VISIBLE_DEVICES" not in runtime_env_of({"CPU": 1, "GPU": 1})["env_vars"]


def test_the_process_that_workers_are_copies_of_sees_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    given = []
    real = preload.subprocess.Popen
    monkeypatch.setattr(
        preload.subprocess, "Popen", lambda *a, **k: given.append(k["env"]) or real(*a, **k)
    )
    with preload.preloaded({"CPU": 1}, None):
        assert [environment["CUDA_VISIBLE_DEVICES"] for environment in given] == [""]

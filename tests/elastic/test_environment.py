"""What a worker sees of the machine, by the resources that it asked for."""

from __future__ import annotations

import os

import pytest
import ray

from manta.elastic.worker import preload
from manta.elastic.worker.environment import interface_of, runtime_env_of, socket_names


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
    monkeypatch.delenv(preload.VARIABLE, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    given = []
    real = preload.subprocess.Popen
    monkeypatch.setattr(
        preload.subprocess, "Popen", lambda *a, **k: given.append(k["env"]) or real(*a, **k)
    )
    with preload.preloaded({"CPU": 1}, None):
        assert [environment["CUDA_VISIBLE_DEVICES"] for environment in given] == [""]


def test_workers_with_gpus_have_an_allocator_that_grows_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "PYTORCH_ALLOC_CONF"
    for each in (name, "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(each, raising=False)
    assert runtime_env_of({"GPU": 1})["env_vars"][name] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    assert name not in runtime_env_of({"GPU": 1})["env_vars"]
    assert name not in runtime_env_of({"CPU": 1})["env_vars"]


def test_workers_meet_at_the_address_of_their_node(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None  # an address for documentation
    assert socket_names("127.0.0.1") == {}
    monkeypatch.setattr("manta.elastic.worker.environment.interface_of", lambda address: "eth7")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert socket_names("10.0.0.7") == {"GLOO_SOCKET_IFNAME": "eth7"}


def test_workers_of_a_node_share_its_processors_when_they_compile() -> None:
    from manta.elastic.worker.train_function import compile_threads

    cpus = len(os.sched_getaffinity(0))
    assert compile_threads(1) == min(32, cpus)
    assert compile_threads(2 * cpus) == 1

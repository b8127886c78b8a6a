"""A worker computes on the device of its slot, and begins when that is free."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from manta.elastic.worker.devices import wait_until_free, wrong_device
from manta.elastic.worker.environment import runtime_env_of

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
A, B = "dd8a8d3b-0000-1111-2222-333344445555", "0badcafe-0000-1111-2222-333344445555"


def test_memory_of_the_group_before_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([(8 * GIB, 80 * GIB), (9 * GIB, 80 * GIB), (79 * GIB, 80 * GIB)])
    paused: list[float] = []
    monkeypatch.setattr("manta.elastic.worker.devices.time.sleep", paused.append)
    assert wait_until_free(lambda: next(looks)) is None
    assert len(paused) == 2


def test_memory_that_stays_taken_is_told() -> None:
    reason = wait_until_free(lambda: (20 * GIB, 80 * GIB), 0.0)
    assert reason == "other processes hold 60.0 of its 80.0 GiB; training with the rest"
    assert wait_until_free(lambda: (70 * GIB, 80 * GIB), 0.0) is None


@pytest.mark.parametrize(
    ("visible", "index", "count", "uuids", "wrong"),
    [
        ([], 0, 4, None, False),
        (["2"], 0, 1, None, False),
        (["2"], 0, 8, None, True),
        (["0", "1"], 1, 2, None, False),
        ([f"GPU-{A}"], 0, 1, None, False),
        (["GPU-dd8a8d3b"], 0, 1, None, False),
        ([f"GPU-{B}"], 0, 1, None, True),
        ([f"GPU-{B}", f"GPU-{A}"], 1, 2, None, False),
        (["MIG-1234"], 0, 1, None, False),
        (["1"], 0, 1, [f"GPU-{B}", f"GPU-{A}"], False),
        (["0"], 0, 1, [f"GPU-{B}", f"GPU-{A}"], True),
        (["5"], 0, 1, [f"GPU-{B}"], False),
    ],
)
def test_another_device_than_the_slots_is_noticed(visible, index, count, uuids, wrong) -> None:
    found = wrong_device(visible, index, count=count, uuid=A, uuids=uuids)
    assert (found is not None) == wrong


# Each of these may start CUDA, and would on a machine that has it.
IMPORT = """
import torch
asked = []
for name in ("is_available", "device_count", "_lazy_init"):
    setattr(torch.cuda, name, lambda name=name: asked.append(name) or 0)
import manta.elastic.worker.train_function, transformers.models.llama.modeling_llama
assert not torch.cuda.is_initialized()
print(asked)
torch.cuda.is_available()
print(asked)
"""


def test_importing_a_worker_does_not_ask_for_devices() -> None:
    """It has not been told then which it may see, and what CUDA finds first it keeps."""
    environment = {**os.environ, **runtime_env_of({"GPU": 1})["env_vars"]}
    environment["PYTHONPATH"] = str(ROOT / "platform")
    run = subprocess.run(
        [sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["[]", "['is_available']"]
    assert environment["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"

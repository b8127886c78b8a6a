"""What a worker computes on, and what it trains: facts for the run's record."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from manta.elastic.worker.host_memory import host_memory
from manta.model.quantized import whole_numel
from manta.model.small import trained_weights
from manta.state.state_size import state_bytes
from manta.train.device_kind import device_kind
from manta.train.engine import Engine


def hardware() -> dict[str, Any]:
    """Description of the hardware that this worker computes on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {
        "kind": device_kind(device),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def model(engine: Engine) -> dict[str, Any]:
    """Description of the model: type, size, precision, and memory for its state."""
    total, trained = whole_numel(engine.trained.lm), trained_weights(engine.trained.lm)
    config = getattr(engine.trained.lm, "config", None)
    return {
        "model": getattr(config, "model_type", engine.config.model.type),
        "parameters": total,
        "trained_parameters": trained,
        **({} if engine.trained.base is None else {"base": f"{engine.trained.base:016x}"}),
        "precision": engine.config.train.precision,
        "param_dtype": engine.config.train.param_dtype,
        "matmul_precision": engine.config.train.matmul_precision,
        "host_memory": host_memory(
            state_bytes(
                total if engine.trained.base is None else trained,
                trained,
                engine.config.optimizer.numbers_kept,
            ),
            engine.ranks.world_size,
            int(os.environ["LOCAL_WORLD_SIZE"]),
            shards=engine.trained.mesh.shards if engine.trained.mesh else None,
            snapshots=engine.config.checkpoint.snapshot_every != 0,
        ).most,
    }

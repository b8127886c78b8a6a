"""The loop that a person would write, for `torchrun` and for Ray Train: DDP, a checkpoint each
ten steps, resuming from the newest. Part of `recovery.py`.

    torchrun --nproc-per-node 2 --max-restarts 100 benchmarks/recovery_loop.py FOLDER

FOLDER holds `tokens.npy` (samples × sequence length) and `model`, a config of Transformers.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recovery_log import StepLog

BATCH, CHECKPOINT_EVERY = 8, int(os.environ.get("RECOVERY_CHECKPOINT_EVERY", "10"))
State = dict[str, Any]
NEWEST = "state.pt"


def loop(folder: Path, state: State | None, save: Callable[[State], None], node: str = "") -> None:
    """Train for ever as one rank; `save` is called on all of them.

    Args:
        folder: of the case.
        state: to resume from.
        save: makes a checkpoint.
        node: of Ray's, that this worker is on.
    """
    import numpy as np
    import torch
    import torch.distributed as dist
    from plain_step import plain_step
    from torch.nn.parallel import DistributedDataParallel
    from transformers import AutoConfig, AutoModelForCausalLM

    rank, world_size = dist.get_rank(), dist.get_world_size()
    log = StepLog(folder, rank, node)
    samples = np.load(folder / "tokens.npy", mmap_mode="r")
    order = np.random.default_rng(0).permutation(len(samples))
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "model"))
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    if state:
        lm.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    model = DistributedDataParallel(lm)
    step = state["step"] if state else 0
    while True:
        step += 1
        positions = np.arange((step - 1) * BATCH, step * BATCH)[rank::world_size]
        plain_step(model, optimizer, samples[order[positions % len(order)]]).item()
        log.stepped(step)
        if step % CHECKPOINT_EVERY == 0:
            save({"step": step, "model": lm.state_dict(), "optimizer": optimizer.state_dict()})


def under_torchrun(folder: Path) -> None:
    """Train as a process of torchrun."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    newest = folder / NEWEST

    def save(state: State) -> None:
        if dist.get_rank() == 0:
            torch.save(state, newest.with_suffix(".part"))
            os.replace(newest.with_suffix(".part"), newest)

    loop(folder, torch.load(newest) if newest.exists() else None, save)


def under_ray_train(order: dict[str, str]) -> None:
    """Train as a worker of Ray Train."""
    import ray
    import ray.train
    import torch

    def save(state: State) -> None:
        if ray.train.get_context().get_world_rank() != 0:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder) / NEWEST)
            ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    state = None
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / NEWEST)
    loop(Path(order["folder"]), state, save, ray.get_runtime_context().get_node_id())


if __name__ == "__main__":
    under_torchrun(Path(sys.argv[1]))

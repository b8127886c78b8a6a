"""The metrics of a run, as its rows name them and as W&B does.

In W&B what stands before the first slash is a section of its own. A metric that isn't listed here
stands with those of training.
"""

from __future__ import annotations

from manta.stream.eval_sample import LOSS_OF

IN_WANDB = {
    "tokens": "tokens",  # what all are drawn over
    "val_loss": "val/loss",
    "bits_per_byte": "val/bits_per_byte",
    "lr": "optim/lr",
    "batch_size": "optim/batch_size",
    "grad_norm": "optim/grad_norm",
    "world_size": "perf/workers",
    "tokens_per_s": "perf/tokens_per_s",
    "mfu": "perf/mfu",
    "peak_memory": "perf/peak_memory_bytes",
    "time_data": "perf/wait_data_s",
    "time_communication": "perf/wait_workers_s",
    "time_compute": "perf/compute_s",
    "time_optimizer": "perf/optimizer_s",
}


def in_wandb(name: str) -> str:
    """The name of a row's metric in W&B."""
    if name.startswith(LOSS_OF):
        return f"val/loss/{name.removeprefix(LOSS_OF)}"
    return IN_WANDB.get(name, f"train/{name}")

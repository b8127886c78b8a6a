"""The metrics of a run: unit and meaning, which direction is better, their names in W&B.

A row of `metrics.jsonl` names them as here. In W&B what stands before the first slash is a section
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LOSS = "loss"
VAL_LOSS = "val_loss"
# Before a source's name: the validation loss over the samples of that source.
VAL_LOSS_OF = f"{VAL_LOSS}/"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: in a row.
        wandb: in W&B.
        unit: of its values.
        meaning: in words.
        best: whether its least or its greatest value is the better one; None where neither is.
    """

    name: str
    wandb: str
    unit: str
    meaning: str
    best: Literal["min", "max"] | None = None


METRICS = {
    metric.name: metric
    for metric in (
        Metric(VAL_LOSS, "val/loss", "nats a token", "mean loss of the validation samples", "min"),
        Metric(LOSS, "train/loss", "nats a token", "mean loss of the batch of a step", "min"),
        Metric(
            "bits_per_byte",
            "val/bits_per_byte",
            "bits a byte of text",
            "validation loss, whatever the tokenizer",
            "min",
        ),
        Metric("tokens", "tokens", "tokens", "consumed by the run; what all is drawn over"),
        Metric("epoch", "train/epoch", "", "number of the epoch, from 0"),
        Metric("skipped", "train/skipped", "", "whether the update of the step was dropped"),
        Metric("lr", "optim/lr", "", "learning rate of the step"),
        Metric("batch_size", "optim/batch_size", "samples", "of the step, over all workers"),
        Metric(
            "grad_norm", "optim/grad_norm", "", "L2 norm of the gradient before clipping", "min"
        ),
        Metric("world_size", "perf/workers", "workers", "that trained the step"),
        Metric("tokens_per_s", "perf/tokens_per_s", "tokens/s", "since the row before", "max"),
        Metric("mfu", "perf/mfu", "share of 1", "FLOPs of the model, of the devices' peak", "max"),
        Metric("peak_memory", "perf/peak_memory_bytes", "bytes", "most memory of a device so far"),
        Metric("time_data", "perf/wait_data_s", "s a step", "waiting for the next batch"),
        Metric(
            "time_communication", "perf/wait_workers_s", "s a step", "waiting for other workers"
        ),
        Metric("time_compute", "perf/compute_s", "s a step", "forward and backward pass"),
        Metric("time_optimizer", "perf/optimizer_s", "s a step", "clipping and update"),
    )
}
# What runs and trials may be compared by: those of which one direction is better.
COMPARABLE = {
    name: metric.best
    for name, metric in METRICS.items()
    if metric.best is not None and name != "bits_per_byte"  # which no row has
}


def in_wandb(name: str) -> str:
    """The name of a row's metric in W&B; one that isn't listed stands with those of training."""
    if name.startswith(VAL_LOSS_OF):
        return f"{METRICS[VAL_LOSS].wandb}/{name.removeprefix(VAL_LOSS_OF)}"
    return METRICS[name].wandb if name in METRICS else f"train/{name}"

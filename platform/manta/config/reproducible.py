"""Which settings can't be the same to the bit at any world size."""

from __future__ import annotations

from manta.config.scaling import ScalingSection
from manta.config.train import ParallelSection, TrainSection


def problem_of(
    train: TrainSection, parallel: ParallelSection, scaling: ScalingSection
) -> str | None:
    """Why a run can't keep `train.reproducible`, with the remedy; None if it can."""
    if train.reproducible is None:
        return None
    asked = "train.reproducible = 'any_world_size'"
    if train.precision == "fp16":
        return (
            f"{asked} can't be used with train.precision = 'fp16', whose loss scale would be part "
            "of the sums: use 'bf16'"
        )
    if parallel.reduce_dtype != "fp32":
        return (
            f"{asked} exchanges gradients in float64, so that their sum is exact: leave "
            "parallel.reduce_dtype out"
        )
    mixes = scaling.min == 1 and scaling.upper > 1
    if parallel.shard and train.precision == "bf16" and mixes:
        return (
            f"{asked} with parallel.shard and train.precision = 'bf16': one worker alone doesn't "
            "split the model, and rounds other parts of it to bf16 than several do; set "
            "scaling.min to 2 or more"
        )
    return None

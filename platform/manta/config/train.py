"""How a step is computed: precision, forward passes, exchange, optimizer."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from manta.config.on_change import OnChange, key
from manta.config.section import Section
from manta.config.units import Span


class LengthSegment(Section):
    """A stretch of a run's beginning in which the model sees samples in shorter pieces."""

    until: Span = Field(description="end of the stretch: tokens, or percent of the horizon")
    length: int = Field(ge=2, description="tokens of a piece; divides train.seq_len")


class TrainSection(Section):
    """The step."""

    on_change: ClassVar[OnChange] = OnChange.FORK

    seq_len: int = key(
        OnChange.START,
        default=1024,
        ge=1,
        description="tokens in a sample; 1 where a sample has none, and is "
        "counted in place of tokens",
    )
    seq_len_warmup: list[LengthSegment] = Field(
        default_factory=list,
        description="shorter lengths at the beginning, for objective.type: causal: each sample is "
        "cut into pieces of that many tokens, which see no other piece; steps, order and token "
        "clock stay as they are",
    )
    micro_batch: int = key(
        OnChange.NOTE,
        rounds=True,
        default=8,
        ge=1,
        description="most samples in one forward pass of a worker",
    )
    precision: Literal["no", "bf16", "fp16"] = Field(
        default="no",
        description="number format of the forward and backward pass (autocast); no: fp32",
    )
    param_dtype: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="number format of the weights in forward and backward pass; bf16: rounded from "
        "float32 master weights, which the optimizer updates and checkpoints hold; with "
        "parallel.shard this is bf16 whenever train.precision is",
    )
    matmul_precision: Literal["highest", "high"] = Field(
        default="highest",
        description="torch.set_float32_matmul_precision: high computes fp32 products in TF32",
    )
    clip_norm: float | None = Field(
        default=1.0,
        gt=0,
        description="largest L2 norm of the gradient; a larger one is scaled down to it; null: no "
        "clipping",
    )
    compile: bool = key(
        OnChange.NOTE,
        rounds=True,
        default=False,
        description="torch.compile; all forward passes get the same number of rows",
    )
    activation_checkpointing: bool = key(
        OnChange.NOTE,
        rounds=True,
        default=False,
        description="compute activations again in the backward pass: less memory, more time",
    )
    reproducible: Literal["any_world_size"] | None = Field(
        default=None,
        description="any_world_size: weights and losses are the same to the bit for any number of "
        "workers, whatever failed, on devices of one kind; null: for the same number of workers",
    )

    @field_validator("seq_len", mode="before")
    @classmethod
    def _is_one_length(cls, value: Any) -> Any:
        if isinstance(value, list):
            raise ValueError(
                "give the longest length here, and shorter ones that come before it in "
                "train.seq_len_warmup"
            )
        return value


class ParallelSection(Section):
    """How the model and its gradients are divided among the workers."""

    on_change: ClassVar[OnChange] = OnChange.FORK

    shard: bool | Annotated[int, Field(strict=True, ge=2)] = key(
        OnChange.NOTE,
        rounds=True,
        default=False,
        description="true: parameters split over all workers (FSDP2); a number: over this many, or "
        "the next larger number that divides the workers, and the other workers hold further "
        "copies (HSDP)",
    )
    reduce_dtype: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="number format in which workers exchange and sum gradients; bf16: rounded, in "
        "half the bytes",
    )

"""How ranks that each hold the whole model train as one: Accelerate, DDP, and what DDP sends.

Torch's own hook for bf16, `bf16_compress_hook`, rounds before it divides by the number of ranks,
which rounds once more where that is no power of two; and DDP takes it on no CPU.
"""

# No `annotations` from the future: DDP looks at those of a hook, which must be types and no text.
import warnings

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manta.config.errors import ConfigError, TrainingError
from manta.config.run import RunConfig
from manta.parallel.masters import RoundedWeights
from manta.parallel.ranks import Ranks

# By `parallel.reduce_dtype`.
REDUCE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# MB of gradients that DDP exchanges at a time: Torch's default, and where the model is compiled.
# Torch cuts a compiled graph where a bucket ends, with the default into dozens of small pieces.
BUCKET, COMPILED_BUCKET = 25, 250


def accelerator_of(config: RunConfig, *, casts: bool = True) -> Accelerator:
    """Accelerate, for this rank.

    Args:
        config: the run.
        casts: whether a module that it prepares gets autocast; not one that has it already.

    Raises:
        ConfigError: if the precision can't be had on this device.
    """
    precision = config.train.precision
    on_cpu = not torch.cuda.is_available()
    if precision == "fp16" and on_cpu:
        raise ConfigError("train.precision = 'fp16' needs a GPU; on a CPU take 'bf16' or 'no'")
    return Accelerator(
        # Without it Accelerate would not look for other processes on a CPU.
        cpu=on_cpu,
        mixed_precision=precision if casts else "no",
        # Buffers are functions of the config, the same on every rank: no need to send them.
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                gradient_as_bucket_view=True,
                broadcast_buffers=False,
                bucket_cap_mb=COMPILED_BUCKET if config.train.compile else BUCKET,
            )
        ],
    )


def check_all_are_seen(accelerator: Accelerator, ranks: Ranks) -> None:
    """Refuse to train where gradients would not be exchanged.

    Raises:
        TrainingError: if Accelerate does not see all ranks.
    """
    if accelerator.num_processes != ranks.world_size:
        raise TrainingError(
            f"Accelerate sees {accelerator.num_processes} processes, but the group has "
            f"{ranks.world_size}: gradients would not be exchanged"
        )


def prepared(
    loss: nn.Module,
    accelerator: Accelerator,
    config: RunConfig,
    weights: RoundedWeights | None,
    *,
    exchanges: bool,
) -> nn.Module:
    """`loss` as `accelerator` runs it.

    Args:
        loss: computes the loss from a batch.
        accelerator: this rank's accelerator.
        config: the run.
        weights: the copy of the weights that `loss` computes with, if there is one.
        exchanges: whether ranks exchange whole gradients; then it gets DDP around it.
    """
    with warnings.catch_warnings():
        # Torch has a new name for the option, which Accelerate does not know yet.
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
        model: nn.Module = accelerator.prepare_model(loss, evaluation_mode=not exchanges)
    if weights is not None:
        weights.share_buffers()  # Accelerate has moved the module, which gave it other tensors
    if isinstance(model, DistributedDataParallel):
        dtype = REDUCE_DTYPES[config.parallel.reduce_dtype]
        if weights is not None:
            model.register_comm_hook((weights, dtype), _for_masters)
        elif dtype != torch.float32:
            model.register_comm_hook(dtype, _rounded)
    return model


def taken_back(loss: nn.Module) -> None:
    """Have `prepared` lay a module anew that it has prepared once.

    Accelerate marks what it has prepared, and returns that as it is: internal to Accelerate 1.15,
    guarded by tests/train/test_in_place.py.
    """
    vars(loss).pop("_is_accelerate_prepared", None)


def _rounded(dtype: torch.dtype, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """A bucket of gradients, as the mean over ranks of what `dtype` has of them."""
    return _mean(bucket.buffer(), dtype)


def _for_masters(
    state: tuple[RoundedWeights, torch.dtype],
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """The same of what a bucket and the passes before it add up to; for the masters alone."""
    (weights, dtype), own = state, bucket.buffer()
    gradients = own.float()
    weights.take_in(bucket.parameters(), gradients)
    done: torch.futures.Future[Tensor] = _mean(gradients, dtype).then(lambda _: own)
    return done


def _mean(gradients: Tensor, dtype: torch.dtype) -> torch.futures.Future[Tensor]:
    """`gradients`, float32, as their mean over ranks, in place; they are sent as `dtype`."""
    sent = gradients.div_(dist.get_world_size()).to(dtype)

    def unpacked(arrived: torch.futures.Future[list[Tensor]]) -> Tensor:
        return gradients.copy_(arrived.value()[0])

    mean: torch.futures.Future[Tensor] = (
        dist.all_reduce(sent, async_op=True).get_future().then(unpacked)
    )
    return mean

"""`torch.compile` for a run: one graph for each kind of forward pass, and never a silent fallback.

Every forward pass of a compiled run has the same number of rows: Torch would compile a model anew
for each other number, and after some of them go on without compiling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch._dynamo.exc import FailOnRecompileLimitHit

from manta.config.errors import TrainingError


def compile_module(module: nn.Module) -> None:
    """Have `module` compiled at its first forward pass, for one shape of its inputs."""
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    module.compile(dynamic=False)


def compile_layers(layers: Sequence[nn.Module]) -> None:
    """Have each layer compiled by itself; layers that are alike share a graph.

    To be called before FSDP2 gets them: Torch does not look into FSDP's hooks, at each of which the
    graph of a compiled model would break.
    """
    limit = torch._dynamo.config.recompile_limit
    # At the worst each layer has its own graph for training, and its own for evaluations.
    torch._dynamo.config.recompile_limit = max(limit, 2 * len(layers))
    for layer in layers:
        compile_module(layer)


@contextmanager
def no_fallback() -> Iterator[None]:
    """In it, a model that is compiled again and again raises a clear error.

    Raises:
        TrainingError: with the remedy.
    """
    try:
        yield
    except FailOnRecompileLimitHit as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise TrainingError(
            "train.compile: the model was compiled anew until Torch's limit of "
            f"{torch._dynamo.config.recompile_limit} times ({cause}): set train.compile to false; "
            "TORCH_LOGS=recompiles says what changed each time"
        ) from error

"""Attention of a model in bf16 on this CPU: in bf16, as Torch does it by autocast, and in float32.

    python benchmarks/attention.py [--repeats 7] [--threads 2] [--cases 8x4x128x12,1x16x2048x64]

A case is rows × heads × tokens × width of a head. Forward and backward of causal attention,
inputs and gradient in bf16, which the second way copies to float32 and back: Manta's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

CASES = "8x4x128x12,8x6x128x32,8x6x256x64,4x8x512x64,1x16x2048x64,1x8x2048x128"


def main() -> None:
    """Print medians in milliseconds, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cases", default=CASES)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("case", "bf16, ms", "float32, ms", "bf16 / float32")
    for case in arguments.cases.split(","):
        narrow, wide = compare(tuple(map(int, case.split("x"))), arguments.repeats)
        table.add_row(case, f"{narrow:.2f}", f"{wide:.2f}", f"{narrow / wide:.2f}")
    Console().print(table)


def compare(shape: tuple[int, ...], repeats: int) -> tuple[float, float]:
    """Milliseconds in bf16 and in float32, in turn, after one pass of each."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    slope = torch.randn(shape, dtype=torch.bfloat16)

    def narrow() -> Tensor:
        return F.scaled_dot_product_attention(*inputs, is_causal=True)

    def wide() -> Tensor:
        raised = (one.float() for one in inputs)
        return F.scaled_dot_product_attention(*raised, is_causal=True).bfloat16()

    def milliseconds(attend: Callable[[], Tensor]) -> float:
        began = time.perf_counter()
        torch.autograd.grad(attend(), inputs, slope)
        return (time.perf_counter() - began) * 1e3

    rounds = [(milliseconds(narrow), milliseconds(wide)) for _ in range(repeats + 1)]
    of_narrow, of_wide = zip(*rounds[1:], strict=True)
    return statistics.median(of_narrow), statistics.median(of_wide)


if __name__ == "__main__":
    main()

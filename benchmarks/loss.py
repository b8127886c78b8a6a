"""The output layer and its loss: speed and memory with and without all logits in memory.

    python benchmarks/loss.py [--repeats 3] [--cases 1024x192x8192,2048x512x131072]

A case is tokens × width × vocabulary, in float32, forward and backward. Each way runs in a
process of its own, in turn: `plain` is Torch's linear layer and cross-entropy, `torch` its
`linear_cross_entropy` in chunks of its own choice, `manta` what Manta trains with, and `manta 64`
the same by chunks of 64 MiB of logits. Memory is the growth of the process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict

WAYS = ("plain", "torch", "manta", "manta 16", "manta 64", "manta 256")


def measure(way: str, tokens: int, width: int, vocab: int) -> dict[str, float]:
    """Seconds of a forward and backward pass, the second one, and MiB at the peak of both."""
    import torch
    import torch.nn.functional as F

    from manta.model import cross_entropy

    if way.startswith("manta "):
        rows = int(way.split()[1]) * 2**20 // (4 * vocab)
        cross_entropy.rows_at_once = lambda weight: rows
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (torch.randn(vocab, width) * 0.05).requires_grad_()
    labels = torch.randint(0, vocab, (tokens,))

    def loss() -> torch.Tensor:
        if way == "plain":
            return F.cross_entropy(F.linear(hidden, weight), labels, reduction="sum")
        if way == "torch":
            options = torch.nn.LinearCrossEntropyOptions()
            return F.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)
        return cross_entropy.linear_cross_entropy(hidden, weight, None, labels)

    F.cross_entropy(F.linear(hidden[:2], weight), labels[:2]).backward()  # threads start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        hidden.grad = weight.grad = None
        began = time.perf_counter()
        loss().backward()
        seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "mib": grown / 1024}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", default="1024x192x8192,2048x512x131072")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    ways = arguments.ways.split(",")
    if arguments.one:
        print(json.dumps(measure(arguments.one, *_sizes(arguments.cases))))
        return
    print("| tokens × width × vocabulary | | ms | of plain's time | MiB at the peak |")
    print("| --- | --- | --- | --- | --- |")
    for case in arguments.cases.split(","):
        found = defaultdict(list)
        for _ in range(arguments.repeats):
            for way in ways:
                command = [sys.executable, __file__, "--one", way, "--cases", case]
                done = subprocess.run(command, capture_output=True, check=True, env=os.environ)
                found[way].append(json.loads(done.stdout))
        plain = [one["seconds"] for one in found["plain"]]
        for way in ways:
            seconds = [one["seconds"] for one in found[way]]
            ratios = sorted(mine / limit for mine, limit in zip(seconds, plain, strict=True))
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            memory = statistics.median(one["mib"] for one in found[way])
            middle = statistics.median(seconds) * 1e3
            sizes = case.replace("x", " × ")
            print(f"| {sizes} | {way} | {middle:,.0f} | {spread} | {memory:,.0f} |", flush=True)


def _sizes(case: str) -> list[int]:
    return [int(size) for size in case.split("x")]


if __name__ == "__main__":
    main()

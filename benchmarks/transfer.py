"""Is the best learning rate of a small model the best of a wide or a deep one?

    python benchmarks/transfer.py [--over width|depth] [--sizes 64,128,256,512] [--rates 5,11]
        [--steps 100] [--seeds 1] [--threads 1] [--out FILE.json]

Llamas with heads of 16 trained on the bytes of Manta's own sources, 8 rows of 64 bytes a step and
no byte twice: as Transformers does it, and by `model.parametrization` (mup over widths at depth 2,
completep over depths at width 64) with the smallest size as the base. Models and optimizers are
those of runs; the loop around them is bare. Rates are powers of two, from 2^-11 to 2^-5 by default,
with a warmup of a tenth. A cell is the mean loss of the last tenth of the steps, in nats a byte,
over the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.model import hf_config
from manta.model import language_model as models
from manta.optimizer import build as optimizers

ROOT = Path(__file__).resolve().parents[1]
ROWS, LENGTH, HEAD, BYTES = 8, 64, 16, 256
WIDTH, DEPTH = 64, 2
# Standard deviation of first values at the base: 1 / √64, with which each layer keeps the size of
# what it is given. With Transformers' 0.02 so narrow a model spends the whole run on a plateau.
FIRST = 0.125
PARAMETRIZED = {"width": "mup", "depth": "completep"}


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--over", choices=PARAMETRIZED, default="width")
    parser.add_argument("--sizes", default="64,128,256,512")
    parser.add_argument("--rates", default="5,11", help="smallest and largest negative exponent")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = [int(size) for size in given.sizes.split(",")]
    first, last = map(int, given.rates.split(","))
    exponents = range(-last, -first + 1)
    names = ("standard", PARAMETRIZED[given.over])
    found: dict[str, dict[int, dict[int, float]]] = {name: {} for name in names}
    for size in sizes:
        for name in names:
            cells = found[name].setdefault(size, {})
            for exponent in exponents:
                losses = [
                    final_loss(given.over, name, size, sizes[0], 2.0**exponent, given.steps, seed)
                    for seed in range(given.seeds)
                ]
                cells[exponent] = sum(losses) / len(losses)
                said = f"{name}, {given.over} {size}, 2^{exponent}: {cells[exponent]:.3f}"
                print(said, file=sys.stderr, flush=True)
    for name in names:
        print_table(name, given.over, found[name])
    if given.out:
        given.out.write_text(json.dumps(found))


def final_loss(
    over: str, name: str, size: int, base: int, rate: float, steps: int, seed: int
) -> float:
    """The mean loss of the last tenth of the steps; infinite where it diverged."""
    config = config_of(over, name, size, base, seed)
    lm = models.build(config, hf_config.resolve(config, Vocabulary(BYTES, eos_id=0)))
    optimizer = optimizers.build(config.optimizer, lm, 1, config.model.parametrization)
    losses = []
    for step, tokens in zip(range(steps), batches(seed), strict=False):
        loss = lm(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / (steps / 10))
            group["lr"] = rate * warm * group.get(optimizers.LR_FACTOR, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    tail = losses[-max(1, steps // 10) :]
    mean = sum(tail) / len(tail)
    return mean if mean == mean else float("inf")


def config_of(over: str, name: str, size: int, base: int, seed: int) -> RunConfig:
    """The run of one cell."""
    width, depth = (size, DEPTH) if over == "width" else (WIDTH, size)
    model: dict[str, Any] = {
        "type": "llama",
        "sizes": {
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": depth,
            "num_attention_heads": width // HEAD,
            "num_key_value_heads": width // HEAD,
            "max_position_embeddings": LENGTH,
            "initializer_range": FIRST,
        },
    }
    if name == "mup":
        model["parametrization"] = {"type": "mup", "base_width": base}
    if name == "completep":
        bases = {"base_width": WIDTH, "base_depth": base}
        model["parametrization"] = {"type": "completep", **bases}
    return RunConfig.model_validate(
        {
            "run": {"name": "transfer", "seed": seed},
            "corpus": "none",
            "model": model,
            "train": {"seq_len": LENGTH},
            "schedule": {"horizon": 1, "lr": 1, "batch": ROWS},
        }
    )


def batches(seed: int) -> Iterator[Tensor]:
    """Rows of the sources' bytes in an order by the seed, each once."""
    text = b"".join(path.read_bytes() for path in sorted((ROOT / "platform").rglob("*.py")))
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    rows = data[: len(data) // LENGTH * LENGTH].view(-1, LENGTH).long()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    for first in range(0, len(rows) - ROWS + 1, ROWS):
        yield rows[order[first : first + ROWS]]


def print_table(name: str, over: str, found: dict[int, dict[int, float]]) -> None:
    """Losses by rate and size, the best of each size in bold."""
    sizes = list(found)
    print(f"\n{name}:\n\n| rate | " + " | ".join(f"{over} {size}" for size in sizes) + " |")
    print("| --- |" + " --- |" * len(sizes))
    for exponent in found[sizes[0]]:
        cells = []
        for size in sizes:
            loss = found[size][exponent]
            best = loss == min(found[size].values())
            cells.append(f"**{loss:.3f}**" if best else f"{loss:.3f}")
        print(f"| 2^{exponent} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

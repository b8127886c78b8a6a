"""Optimizers and schedules at equal tokens: held-out loss, steps and time.

    python benchmarks/optimizers.py [--tokens 300000] [--rates 3] [--seeds 2] [--threads 1]
        [--rows 'adamw;muon'] [--out FILE.json]

A Llama of width 128 and depth 4 trained on the bytes of Manta's own sources, no byte twice, in
steps of 16 rows of 64 bytes. Model, optimizer and schedule are those of runs; the loop around them
is bare. Each row is trained at some rates that differ by 2, around a usual one, with each seed:
shown is the rate with the lowest mean loss over the last 64 KB of the sources, its range over the
seeds, and the loss of an average of the weights with a half-life of 5 % of the tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.model import hf_config
from manta.model import language_model as models
from manta.optimizer import build as optimizers
from manta.optimizer.averaging import swapped
from manta.schedule import Schedule

ROOT = Path(__file__).resolve().parents[1]
ROWS, LENGTH, BYTES, HELD_OUT = 16, 64, 256, 2**16
FIRST = 0.088  # standard deviation of first values: 1 / √width
COSINE = {"name": "cosine", "warmup": "5%"}
SEESAW = {"name": "seesaw", "warmup": "5%"}


@dataclass(frozen=True)
class Row:
    """What is trained: a section `optimizer`, a rate without its peak, and a usual peak."""

    optimizer: dict[str, Any]
    lr: dict[str, Any]
    peak: float
    batch: Any = ROWS


TABLE = {
    "adamw": Row({}, COSINE, 2**-7),
    "adamw, cautious decay": Row({"cautious": True}, COSINE, 2**-7),
    "muon": Row({"type": "muon"}, COSINE, 2**-7),
    "lion": Row({"type": "lion", "weight_decay": 1.0}, COSINE, 2**-10),
    "sgd": Row({"type": "sgd", "weight_decay": 0.0}, COSINE, 1.0),
    "adamw, seesaw to 128": Row(
        {}, SEESAW, 2**-7, {"name": "seesaw", "from": ROWS, "to": 8 * ROWS}
    ),
    "adamw, batch 128": Row({}, COSINE, 2**-6, 8 * ROWS),
    "adamw, wsd": Row({}, {"name": "wsd", "warmup": "5%", "decay": "20%"}, 2**-7),
    "adamw, power": Row({}, {"name": "power", "warmup": "5%", "decay": "20%"}, 2**-7),
    "adamw, constant": Row({}, {"name": "constant", "warmup": "5%"}, 2**-8),
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--rates", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| row | rate | held-out loss | over seeds | of the average | steps | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    found = {}
    for name in given.rows.split(";") if given.rows else TABLE:
        row, tried = TABLE[name], []
        for index in range(given.rates):
            peak = row.peak * 2.0 ** (index - given.rates // 2)
            runs = [trained(row, peak, given.tokens, seed) for seed in range(given.seeds)]
            tried.append((peak, runs))
        found[name] = tried
        print(line(name, tried), flush=True)
    if given.out:
        given.out.write_text(json.dumps(found))


def line(name: str, tried: list[tuple[float, list[dict[str, float]]]]) -> str:
    """A row of the table: that of the best rate."""
    peak, runs = min(tried, key=lambda one: sum(run["loss"] for run in one[1]))
    losses = [run["loss"] for run in runs]

    def mean(key: str) -> float:
        return sum(run[key] for run in runs) / len(runs)

    spread = f"{min(losses):.3f} to {max(losses):.3f}"
    cells = [f"{peak:.2g}", f"{mean('loss'):.3f}", spread, f"{mean('average'):.3f}"]
    return " | ".join([f"| {name}", *cells, f"{mean('steps'):.0f}", f"{mean('seconds'):.1f} |"])


def trained(row: Row, peak: float, tokens: int, seed: int) -> dict[str, float]:
    """Train once."""
    config = config_of(row, peak, tokens, seed)
    schedule = Schedule.resolve(config.schedule, LENGTH)
    lm = models.build(config, hf_config.resolve(config, Vocabulary(BYTES, eos_id=0)))
    optimizer = optimizers.build(config.optimizer, lm, tokens)
    data, held_out = rows_of(seed)
    began = time.perf_counter()
    for number in range(schedule.steps):
        step = schedule.step(number)
        batch = data[step.first_position : step.first_position + step.batch_size]
        for part in batch.split(ROWS):
            loss = lm(input_ids=part, labels=part).loss * len(part) / len(batch)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizers.prepare(optimizer, step)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - began
    loss = measured(lm, held_out)
    with swapped(optimizer):
        average = measured(lm, held_out)
    return {"loss": loss, "average": average, "steps": schedule.steps, "seconds": seconds}


@torch.no_grad()
def measured(lm: nn.Module, rows: Tensor) -> float:
    """Mean loss over rows, nats a byte."""
    losses = [float(lm(input_ids=part, labels=part).loss) for part in rows.split(8 * ROWS)]
    mean = sum(losses) / len(losses)
    return mean if mean == mean else float("inf")


def config_of(row: Row, peak: float, tokens: int, seed: int) -> RunConfig:
    """The run of a row."""
    return RunConfig.model_validate(
        {
            "run": {"name": "optimizers", "seed": seed},
            "corpus": "none",
            "model": {
                "type": "llama",
                "sizes": {
                    "hidden_size": 128,
                    "intermediate_size": 256,
                    "num_hidden_layers": 4,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 4,
                    "max_position_embeddings": LENGTH,
                    "initializer_range": FIRST,
                },
            },
            "train": {"seq_len": LENGTH},
            "optimizer": {**row.optimizer, "average": {"half_life": "5%"}},
            "schedule": {"horizon": tokens, "lr": {**row.lr, "peak": peak}, "batch": row.batch},
        }
    )


def rows_of(seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the sources' bytes in an order by the seed, and the last ones, which are held out."""
    text = b"".join(sources())
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    rows = data[: len(data) // LENGTH * LENGTH].view(-1, LENGTH).long()
    kept, held_out = rows[: -HELD_OUT // LENGTH], rows[-HELD_OUT // LENGTH :]
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))
    return kept[order], held_out


def sources() -> Iterator[bytes]:
    """The files of Manta's package."""
    for path in sorted((ROOT / "platform").rglob("*.py")):
        yield path.read_bytes()


if __name__ == "__main__":
    main()

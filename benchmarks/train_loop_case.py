"""What the training loops of `train_loop.py` have in common: model, data, optimizer, clock."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "jobs/demo/run.yaml"
EVERY, WARMUP = 5, 20  # steps from one told to the next; steps before the first that counts
PROGRESS = "MANTA_BENCH_PROGRESS"  # in the environment: the file in which a loop tells its steps
LEARNING_RATE, CLIP, BATCH, SEQ_LEN = 1e-3, 1.0, 8, 128

# `tiny` is the demo's; in `micro`, with 0.9M parameters, what is not arithmetic shows.
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "micro": {
        "hidden_size": 48,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        model: a key of MODELS.
        precision: `fp32`, or `bf16` by autocast.
        accumulate: micro-batches of a step.
        world_size: workers, with DDP where there is more than one.
        threads: of each worker.
        steps: of the run.
        corpus: a prepared corpus.
    """

    model: str
    precision: str
    accumulate: int
    world_size: int
    threads: int
    steps: int
    corpus: str

    @property
    def name(self) -> str:
        """For people."""
        workers = "" if self.world_size == 1 else f", {self.world_size} workers"
        return f"{self.model}, {self.precision}, accumulation {self.accumulate}{workers}"

    @property
    def micro_batch(self) -> int:
        """Rows of one forward pass on one rank."""
        return BATCH // self.world_size // self.accumulate

    def overrides(self, storage: str) -> list[str]:
        """Manta's config of the same work, as overrides of the demo's."""
        step = BATCH * SEQ_LEN
        return [
            *(f"corpus={self.corpus}", f"run.storage={storage}", "run.name=bench"),
            *(f"model.sizes.{key}={value}" for key, value in MODELS[self.model].items()),
            *(f"train.precision={'bf16' if self.precision == 'bf16' else 'no'}",),
            *(f"train.micro_batch={self.micro_batch}", f"train.seq_len={SEQ_LEN}"),
            *(f"train.clip_norm={CLIP}", f"schedule.lr={LEARNING_RATE}", f"schedule.batch={BATCH}"),
            *(f"schedule.horizon={self.steps * step}", f"log.every={EVERY * step}"),
            *("eval.every=null", "checkpoint.every=null", "wandb.mode=disabled"),
            *(f"scaling.min={self.world_size}", f"scaling.resources_per_worker.CPU={self.threads}"),
        ]

    def to_json(self) -> str:
        """For another process; `Case(**json.loads(text))` is the way back."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Work:
    """A case made real, the same for every loop.

    Attributes:
        rows: tokens of this rank, steps × rows × sequence length, as Manta's stream gives them.
        lm: the model, with the weights that Manta's seed gives.
        optimizer: AdamW with Manta's groups and settings.
    """

    rows: np.ndarray
    lm: Any
    optimizer: torch.optim.Optimizer


def work_of(case: Case, rank: int = 0) -> Work:
    """Model, optimizer and data of one rank."""
    from manta.config import RunConfig, load
    from manta.elastic.checks.preflight import check
    from manta.model import hf_config, language_model
    from manta.optimizer.build import build
    from manta.stream.plan import local_stream

    torch.set_num_threads(case.threads)
    checked = check(load(CONFIG, RunConfig, case.overrides("/tmp")))
    batches = local_stream(
        checked.corpus, checked.schedule, cursor=0, rank=rank, world_size=case.world_size
    )
    rows = np.stack([batch.samples["tokens"] for batch in batches])
    resolved = hf_config.resolve(checked.config, checked.manifest.vocabulary)
    lm = language_model.build(checked.config, resolved)
    adamw = build(checked.config.optimizer, lm, 1)
    for group in adamw.param_groups:
        group["lr"] = LEARNING_RATE
    return Work(rows, lm, adamw)


class Progress:
    """Tells each EVERY steps, and the loss at their end, in the file that PROGRESS names.

    Args:
        rank: of this process; only the first tells.
    """

    def __init__(self, rank: int):
        self._path = Path(os.environ[PROGRESS]) if rank == 0 else None

    def after(self, step: int, loss: torch.Tensor | None) -> None:
        """Step number `step`, from 1, is done; `loss` is its mean, if that is to be had."""
        if step % EVERY or self._path is None:
            return
        row = {"step": step} if loss is None else {"step": step, "loss": float(loss)}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

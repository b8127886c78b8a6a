"""One contender of `adapt.py`, in a process of its own: Manta's engine, TRL's trainers, Axolotl.

    python benchmarks/adapt_case.py manta|manta-apart|trl|trl-packed|axolotl FOLDER STEPS

FOLDER holds what `adapt.py` made: a base model, the same chats and pairs as corpora, with one of
them a row and packed, and `case.json`. Each step is told in the file that MANTA_BENCH_PROGRESS
names.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PROGRESS = "MANTA_BENCH_PROGRESS"
RANK, BETA, IGNORE = 16, 0.1, -100
# Steps for which TRL gets samples, before it begins with the first one again.
PREPARED = 100


@dataclass(frozen=True)
class Task:
    """What is learned, and by how much at a time.

    Attributes:
        objective: section of a run's config.
        length: tokens of a row.
        samples: conversations or pairs of a step.
        rows: rows that hold about as many when packed.
        learning_rate: the same at each step.
    """

    objective: dict[str, Any]
    length: int
    samples: int
    rows: int
    learning_rate: float


TASKS = {
    "chat": Task({"type": "chat"}, 256, 16, 4, 1e-3),
    "preference": Task({"type": "preference", "loss": "dpo", "beta": BETA}, 512, 8, 3, 1e-4),
}


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        task: a key of TASKS.
        adapter: whether LoRA is trained; else all weights.
        threads: number of threads to compute with.
    """

    task: str
    adapter: bool
    threads: int

    @property
    def of(self) -> Task:
        """The task."""
        return TASKS[self.task]


def tell(**row: Any) -> None:
    """Add a row to the progress file."""
    with Path(os.environ[PROGRESS]).open("a") as file:
        file.write(json.dumps(row) + "\n")


def checked_run(folder: Path, case: Case, *, packed: bool, steps: int) -> Any:
    """The run in Manta's terms."""
    from manta.config.run import RunConfig
    from manta.elastic.checks.preflight import check

    batch = case.of.rows if packed else case.of.samples
    adapter = {"adapter": {"rank": RANK}} if case.adapter else {}
    return check(
        RunConfig.model_validate(
            {
                "run": {"name": "bench", "storage": tempfile.mkdtemp()},
                "corpus": str(folder / f"{case.task}-{'packed' if packed else 'apart'}"),
                "model": {"pretrained": str(folder / "base"), **adapter},
                "objective": case.of.objective,
                "data": {"document_mask": packed or case.task == "preference"},
                "train": {"seq_len": case.of.length, "micro_batch": batch},
                "optimizer": {"betas": [0.9, 0.999], "weight_decay": 0.0},
                "schedule": {
                    "horizon": case.of.length * batch * steps,
                    "lr": case.of.learning_rate,
                    "batch": batch,
                },
            }
        )
    )


def batches_of(checked: Any) -> Iterator[Any]:
    """The batches of a run of one rank, in its order."""
    from manta.stream.plan import local_stream

    return local_stream(checked.corpus, checked.schedule, cursor=0, rank=0, world_size=1)


def manta(folder: Path, case: Case, steps: int, *, packed: bool = True) -> None:
    """Manta's engine and stream, without Ray."""
    from manta.model import hf_config
    from manta.sample.chat import supervised_mask
    from manta.train.engine import Engine

    checked = checked_run(folder, case, packed=packed, steps=steps)
    engine = Engine(checked.config, hf_config.resolve(checked.config, checked.manifest.vocabulary))
    for batch in batches_of(checked):
        result = engine.step(batch)
        tell(
            step=batch.step.number,
            loss=float(result.loss),
            supervised=int(supervised_mask(batch.samples).sum()),
            tokens=int(np.sum(batch.samples["lengths"])),
            computed=int(batch.samples["tokens"].size),
        )


def conversations(folder: Path, case: Case, steps: int) -> Iterator[dict[str, list[int]]]:
    """Token ids and labels of the conversations, in the order in which Manta takes them."""
    from manta.sample.chat import supervised_mask

    for batch in batches_of(checked_run(folder, case, packed=False, steps=min(steps, PREPARED))):
        masks = supervised_mask(batch.samples)
        rows = zip(batch.samples["tokens"], batch.samples["lengths"], masks, strict=True)
        for tokens, length, mask in rows:
            ids = tokens[:length].astype(int)
            labels = np.where(mask[:length], ids, IGNORE)
            yield {"input_ids": ids.tolist(), "labels": labels.tolist()}


def pairs(folder: Path, case: Case, steps: int) -> Iterator[dict[str, list[int]]]:
    """Token ids of prompt and both answers, in the order in which Manta takes the pairs."""
    for batch in batches_of(checked_run(folder, case, packed=False, steps=min(steps, PREPARED))):
        columns = [batch.samples[name].tolist() for name in ("tokens", "starts", "supervised")]
        for tokens, starts, (first, end, other, last) in zip(*columns, strict=True):
            prompt, begin = tokens[:first], starts[1]
            assert tokens[begin:other] == prompt, "both answers are to one prompt"
            yield {
                "prompt_ids": prompt,
                "chosen_ids": tokens[first:end],
                "rejected_ids": tokens[other:last],
            }


def counts_of(batch: dict[str, Any]) -> dict[str, int]:
    """Tokens of a collated batch of another system's: supervised, without padding, in all."""
    if "completion_mask" in batch:
        supervised = batch["completion_mask"][..., 1:].sum()
    else:
        supervised = (batch["labels"][..., 1:] != IGNORE).sum()
    ids, real = batch["input_ids"], batch.get("attention_mask")
    tokens = ids.numel() if real is None else (real != 0).sum()
    return {"supervised": int(supervised), "tokens": int(tokens), "computed": int(ids.numel())}


def trl(folder: Path, case: Case, steps: int, *, packing: bool) -> None:
    """A trainer of TRL's on the same samples in the same order."""
    import adapt_trl

    if case.task == "preference":
        adapt_trl.preferences(folder, case, steps)
    else:
        adapt_trl.chats(folder, case, steps, packing=packing)


def axolotl(folder: Path, case: Case, steps: int) -> None:
    """Axolotl on the same conversations in the same order."""
    import adapt_axolotl

    adapt_axolotl.chats(folder, case, steps)


LOOPS = {
    "manta": lambda *given: manta(*given),
    "manta-apart": lambda *given: manta(*given, packed=False),
    "axolotl": lambda *given: axolotl(*given),
    "trl": lambda *given: trl(*given, packing=False),
    "trl-packed": lambda *given: trl(*given, packing=True),
}

if __name__ == "__main__":
    where = Path(sys.argv[2])
    LOOPS[sys.argv[1]](
        where, Case(**json.loads((where / "case.json").read_text())), int(sys.argv[3])
    )

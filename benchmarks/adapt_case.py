"""One contender of `adapt.py`, in a process of its own: Manta's engine or TRL's SFTTrainer.

    python benchmarks/adapt_case.py manta|trl|trl-packed FOLDER STEPS

FOLDER holds what `adapt.py` made: a base model, the same chats as corpora with one conversation a
row and packed, and `case.json`. Each step is told in the file that MANTA_BENCH_PROGRESS names.
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
LENGTH, LEARNING_RATE, RANK = 256, 1e-3, 16
# Conversations of a step, and rows that hold about as many when packed.
CONVERSATIONS, ROWS = 16, 4
IGNORE = -100
# Steps for which TRL gets conversations, before it begins with the first one again.
PREPARED = 100


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        adapter: whether LoRA is trained; else all weights.
        threads: number of threads to compute with.
    """

    adapter: bool
    threads: int


def tell(**row: Any) -> None:
    """Add a row to the progress file."""
    with Path(os.environ[PROGRESS]).open("a") as file:
        file.write(json.dumps(row) + "\n")


def checked_run(folder: Path, case: Case, *, packed: bool, steps: int) -> Any:
    """The run in Manta's terms."""
    from manta.config.run import RunConfig
    from manta.elastic.checks.preflight import check

    batch = ROWS if packed else CONVERSATIONS
    adapter = {"adapter": {"rank": RANK}} if case.adapter else {}
    return check(
        RunConfig.model_validate(
            {
                "run": {"name": "bench", "storage": tempfile.mkdtemp()},
                "corpus": str(folder / ("packed" if packed else "apart")),
                "model": {"pretrained": str(folder / "base"), **adapter},
                "objective": {"type": "chat"},
                "data": {"document_mask": packed},
                "train": {"seq_len": LENGTH, "micro_batch": batch},
                "optimizer": {"betas": [0.9, 0.999], "weight_decay": 0.0},
                "schedule": {
                    "horizon": LENGTH * batch * steps,
                    "lr": LEARNING_RATE,
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
            supervised=int(result.weights[0]),
            tokens=int(np.sum(batch.samples["lengths"])),
            computed=int(batch.samples["tokens"].size),
            marked=int(supervised_mask(batch.samples).sum()),
        )


def conversations(folder: Path, case: Case, steps: int) -> Iterator[dict[str, list[int]]]:
    """Token ids and labels of the conversations, in the order in which Manta takes them."""
    from manta.sample.chat import supervised_mask

    for batch in batches_of(checked_run(folder, case, packed=False, steps=steps)):
        masks = supervised_mask(batch.samples)
        rows = zip(batch.samples["tokens"], batch.samples["lengths"], masks, strict=True)
        for tokens, length, mask in rows:
            ids = tokens[:length].astype(int)
            labels = np.where(mask[:length], ids, IGNORE)
            yield {"input_ids": ids.tolist(), "labels": labels.tolist()}


def trl(folder: Path, case: Case, steps: int, *, packing: bool) -> None:
    """TRL's SFTTrainer, with PEFT for LoRA, on the same conversations in the same order."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(case.threads)
    rows = list(conversations(folder, case, min(steps, PREPARED)))
    lm = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    if case.adapter:
        lm = with_lora(lm)

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                # The loader is a batch ahead: the step's own counts are those of its number.
                tell(step=state.global_step, loss=logs["loss"], **counts[state.global_step - 1])

    counts: list[dict[str, int]] = []
    batch = ROWS if packing else CONVERSATIONS
    trainer = SFTTrainer(
        model=lm,
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=batch,
            max_length=LENGTH,
            packing=packing,
            max_steps=steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=1,
            train_sampling_strategy="sequential",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            shuffle_dataset=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        callbacks=[Tell()],
    )
    collate = trainer.data_collator

    def counted(examples: list[dict[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = collate(examples)
        counts.append(
            {
                "supervised": int((made["labels"][..., 1:] != IGNORE).sum()),
                "tokens": sum(len(one["input_ids"]) for one in examples),
                "computed": int(made["input_ids"].numel()),
            }
        )
        return made

    trainer.data_collator = counted
    trainer.train()


def with_lora(lm: Any) -> Any:
    """The same adapter as Manta's, by PEFT, with the same first weights: those of seed 0."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(lm, config)


LOOPS = {
    "manta": lambda *given: manta(*given),
    "manta-apart": lambda *given: manta(*given, packed=False),
    "trl": lambda *given: trl(*given, packing=False),
    "trl-packed": lambda *given: trl(*given, packing=True),
}

if __name__ == "__main__":
    where = Path(sys.argv[2])
    LOOPS[sys.argv[1]](
        where, Case(**json.loads((where / "case.json").read_text())), int(sys.argv[3])
    )

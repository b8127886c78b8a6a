"""TRL's trainers as contenders and oracle of `adapt.py`: SFTTrainer on chats, DPOTrainer on pairs.

Both get the token ids that Manta's corpora have, so that what is compared is training alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from adapt_case import BETA, RANK, Case, conversations, counts_of, pairs, tell
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


def chats(folder: Path, case: Case, steps: int, *, packing: bool) -> None:
    """SFTTrainer, with PEFT for LoRA, on the same conversations in the same order."""
    batch = case.of.rows if packing else case.of.samples
    config = SFTConfig(
        max_length=case.of.length,
        packing=packing,
        shuffle_dataset=False,
        **common(case, batch, steps),
    )
    _train(SFTTrainer, config, folder, case, conversations(folder, case, steps))


class FedWithTokens(DPOTrainer):  # type: ignore[misc]
    """DPOTrainer on token ids: by itself it takes texts alone."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def preferences(folder: Path, case: Case, steps: int) -> None:
    """DPOTrainer, with PEFT for LoRA, on the same pairs in the same order."""
    config = DPOConfig(
        max_length=case.of.length,
        beta=BETA,
        loss_type="sigmoid",
        **common(case, case.of.samples, steps),
    )
    _train(FedWithTokens, config, folder, case, pairs(folder, case, steps))


def common(case: Case, batch: int, steps: int) -> dict[str, Any]:
    """Arguments that both trainers have."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "learning_rate": case.of.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }


def _train(
    made: Any, config: Any, folder: Path, case: Case, samples: Iterator[dict[str, list[int]]]
) -> None:
    torch.set_num_threads(case.threads)
    lm = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    counts: list[dict[str, int]] = []

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                # The loader is a batch ahead: the step's own counts are those of its number.
                tell(step=state.global_step, loss=logs["loss"], **counts[state.global_step - 1])

    trainer = made(
        model=with_lora(lm) if case.adapter else lm,
        args=config,
        train_dataset=Dataset.from_list(list(samples)),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        callbacks=[Tell()],
    )
    collate = trainer.data_collator

    def counted(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = collate(examples)
        counts.append(counts_of(batch))
        return batch

    trainer.data_collator = counted
    trainer.train()


def with_lora(lm: Any) -> Any:
    """The same adapter as Manta's, by PEFT, with the same first weights: those of seed 0."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(lm, config)

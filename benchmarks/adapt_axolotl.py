"""Axolotl as a contender of `adapt.py`, in an environment of its own (`make bench-axolotl`).

It gets the token ids that Manta's corpora have, one conversation a row and padded. Its kernels for
LoRA are switched off: they are Triton's, which has none for a CPU.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

# Before it is imported: no GPU, no network.
os.environ |= {
    "ACCELERATE_USE_CPU": "1",
    "AXOLOTL_DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
}

import torch
import yaml
from adapt_case import RANK, Case, counts_of, tell
from axolotl.cli.train import do_cli
from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback

KERNELS = ("mlp", "qkv", "o", "embedding")


def chats(folder: Path, case: Case, steps: int) -> None:
    """Train on the conversations that `adapt.py` has left in FOLDER/chat.jsonl."""
    torch.set_num_threads(case.threads)
    out = tempfile.mkdtemp()
    config = {
        "base_model": str(folder / "base"),
        "datasets": [{"path": str(folder / "chat.jsonl"), "ds_type": "json", "type": None}],
        "sequence_len": case.of.length,
        "sample_packing": False,
        "shuffle_merged_datasets": False,
        "curriculum_sampling": True,  # in the order of the file
        "micro_batch_size": case.of.samples,
        "gradient_accumulation_steps": 1,
        "max_steps": steps,
        "learning_rate": case.of.learning_rate,
        "optimizer": "adamw_torch",
        "lr_scheduler": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "val_set_size": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        **dict.fromkeys(["bf16", "fp16", "tf32", "flash_attention"], False),
        "attn_implementation": "sdpa",
        "output_dir": out,
        "dataset_prepared_path": f"{out}/prepared",
        "plugins": ["adapt_axolotl.Telling"],
        "seed": 0,
    }
    if case.adapter:
        adapter = {"adapter": "lora", "lora_r": RANK, "lora_alpha": 2 * RANK, "lora_dropout": 0.0}
        kernels = {f"lora_{name}_kernel": False for name in KERNELS}
        config |= {**adapter, "lora_target_linear": True, **kernels}
    path = Path(out) / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    do_cli(str(path))


class Telling(BasePlugin):  # type: ignore[misc]
    """Tells each step."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        """Count what batches have, and tell it with the loss."""
        counts: list[dict[str, int]] = []
        train = trainer.training_step

        def counted(model: Any, inputs: Any, *more: Any) -> Any:
            counts.append(counts_of(inputs))
            return train(model, inputs, *more)

        trainer.training_step = counted

        class Tell(TrainerCallback):  # type: ignore[misc]
            def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
                if "loss" in logs:
                    row = counts[state.global_step - 1]
                    tell(step=state.global_step, loss=float(logs["loss"]), **row)

        return [Tell()]

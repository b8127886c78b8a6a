"""What `latency.py` starts beside Manta: the same first step, by hand and on Ray Train.

    python benchmarks/latency_case.py plain|ray TASK.json

TASK.json has the model's sizes, the file of tokens, the shape of a batch, and the file to write
the first loss to. Nothing is imported that a person's own script would not import.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def first_step(task: dict[str, Any]) -> None:
    """Model, optimizer, one batch, one step; its loss goes to the task's file."""
    import numpy as np
    import torch
    from plain_step import plain_step
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    lm = LlamaForCausalLM(LlamaConfig(**task["sizes"]))
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    if task["compile"]:
        lm.compile()
    tokens = np.load(task["tokens"], mmap_mode="r")
    rows = tokens[: task["batch"] * task["seq_len"]].reshape(task["batch"], task["seq_len"])
    loss = plain_step(lm, optimizer, rows)
    partial = Path(task["out"]).with_suffix(".part")
    partial.write_text(json.dumps({"loss": loss.item()}) + "\n")
    partial.rename(task["out"])


def on_ray(task: dict[str, Any]) -> None:
    """The same in the one worker of a TorchTrainer."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    # No dashboard in a Ray of one's own, which makes it start faster.
    alone = {} if task["address"] else {"include_dashboard": False}
    ray.init(address=task["address"] or "local", log_to_driver=False, **alone)
    TorchTrainer(
        first_step,
        train_loop_config=task,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": task["threads"]}),
        run_config=RunConfig(name="latency", storage_path=str(Path(task["out"]).parent)),
    ).fit()


def main() -> None:
    """Run the case that is named on the command line."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    task = json.loads(Path(sys.argv[2]).read_text())
    {"plain": first_step, "ray": on_ray}[sys.argv[1]](task)


if __name__ == "__main__":
    main()

"""The loops that `train_loop.py` compares: each trains a case in processes of its own.

    python benchmarks/train_loop_peers.py LOOP CASE.json

Called by `train_loop.py`, for several workers by way of torchrun; the first rank tells its steps
in the file that PROGRESS names. Every loop gets the same
rows, weights, optimizer, threads and allocator; litgpt's has weights and data path of its own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from plain_step import attend_in_float32, plain_step, token_loss
from torch.nn.parallel import DistributedDataParallel
from train_loop_case import (
    BATCH,
    CLIP,
    EVERY,
    LEARNING_RATE,
    PROGRESS,
    SEQ_LEN,
    Case,
    Progress,
    Work,
    work_of,
)

RANK = int(os.environ.get("RANK", "0"))


def plain(case: Case) -> None:
    """The loop that a person would write: the limit."""
    if case.world_size > 1:
        dist.init_process_group("gloo")
    work = work_of(case, RANK)
    model = work.lm
    if case.precision == "bf16":
        attend_in_float32(model)
    if case.world_size > 1:
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    run_plain(case, work, model, Progress(RANK))


def run_plain(case: Case, work: Work, model: Any, progress: Progress) -> None:
    """The steps of `plain`, with a model that may be in DDP."""
    bf16 = case.precision == "bf16"
    for step, rows in enumerate(work.rows, 1):
        loss = plain_step(model, work.optimizer, rows, accumulate=case.accumulate, bf16=bf16)
        progress.after(step, loss)


def accelerate(case: Case) -> None:
    """Accelerate as its documentation writes a loop, with nothing around it."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    accelerator = Accelerator(
        cpu=True,
        mixed_precision="bf16" if case.precision == "bf16" else "no",
        gradient_accumulation_steps=case.accumulate,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    assert accelerator.num_processes == case.world_size
    work = work_of(case, RANK)
    model, optimizer = accelerator.prepare(work.lm, work.optimizer)
    progress = Progress(RANK)
    for step, rows in enumerate(work.rows, 1):
        total = torch.zeros(())
        for micro in torch.from_numpy(rows.astype("int64")).chunk(case.accumulate):
            with accelerator.accumulate(model):
                loss = token_loss(model, micro)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
            total += loss.detach() / case.accumulate
        progress.after(step, total)


def trainer(case: Case) -> None:
    """Hugging Face's Trainer, in order, without saving, evaluation or a progress bar."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    work, progress = work_of(case, RANK), Progress(RANK)

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.after(state.global_step, None)  # what it logs is a mean over several steps

    rows = torch.from_numpy(all_rows(case, work).astype("int64"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16=case.precision == "bf16",
            max_steps=case.steps,
            per_device_train_batch_size=case.micro_batch,
            gradient_accumulation_steps=case.accumulate,
            max_grad_norm=CLIP,
            logging_steps=EVERY,
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
        )
        Trainer(
            model=work.lm,
            args=arguments,
            train_dataset=torch.utils.data.TensorDataset(rows),
            data_collator=_collated,
            optimizers=(
                work.optimizer,
                torch.optim.lr_scheduler.LambdaLR(work.optimizer, lambda _: 1.0),
            ),
            callbacks=[Clock()],
        ).train()


def _collated(samples: list[tuple[torch.Tensor]]) -> dict[str, torch.Tensor]:
    tokens = torch.stack([tokens for (tokens,) in samples])
    return {"input_ids": tokens, "labels": tokens}


def all_rows(case: Case, work: Work) -> Any:
    """The rows of all ranks in order, samples × sequence length."""
    if case.world_size == 1:
        return work.rows.reshape(-1, SEQ_LEN)
    import numpy as np

    ranks = [work_of(case, rank).rows for rank in range(case.world_size)]
    return np.concatenate(ranks, axis=1).reshape(-1, SEQ_LEN)


def litgpt(case: Case) -> None:
    """litgpt's own `fit` on its own GPT of the same sizes, with the same number of weights.

    Not the same: the initial weights, and that its loss counts all tokens of a row (the rows
    given to it are one token longer). Its `torch.compile` of the model is left out, as nobody's
    model is compiled here.
    """
    import lightning
    from litgpt import pretrain
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.config import Config
    from litgpt.model import GPT

    work = work_of(case, RANK)
    sizes = work.lm.config
    config = Config(
        n_layer=sizes.num_hidden_layers,
        n_embd=sizes.hidden_size,
        n_head=sizes.num_attention_heads,
        n_query_groups=sizes.num_key_value_heads,
        intermediate_size=sizes.intermediate_size,
        padded_vocab_size=sizes.vocab_size,
        block_size=SEQ_LEN,
        bias=False,
        parallel_residual=False,
        rotary_percentage=1.0,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    fabric = lightning.Fabric(
        accelerator="cpu",
        devices=case.world_size,
        strategy="auto" if case.world_size == 1 else "ddp",
        precision="bf16-mixed" if case.precision == "bf16" else "32-true",
    )
    fabric.launch()
    model = GPT(config)
    weights = sum(p.numel() for p in model.parameters())
    assert weights == sum(p.numel() for p in work.lm.parameters())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    model, optimizer = fabric.setup(model, optimizer)
    train = TrainArgs(
        save_interval=None,
        log_interval=EVERY,
        global_batch_size=BATCH,
        micro_batch_size=case.micro_batch,
        lr_warmup_steps=0,
        max_tokens=case.steps * BATCH * SEQ_LEN,
        max_norm=CLIP,
        min_lr=LEARNING_RATE,
    )
    batches = _Batches(case, work, Progress(RANK))
    with tempfile.TemporaryDirectory() as folder:
        pretrain.fit(
            fabric=fabric,
            devices=case.world_size,
            state={"model": model, "optimizer": optimizer, "iter_num": 0, "step_count": 0},
            train_dataloader=batches,
            val_dataloader=list(batches.first()),
            out_dir=Path(folder),
            tokenizer_dir=None,
            train=train,
            eval=EvalArgs(interval=10**9, initial_validation=False, final_validation=False),
        )


class _Batches:
    """Micro-batches of one rank for litgpt, which asks for the next when it is done with one."""

    def __init__(self, case: Case, work: Work, progress: Progress):
        self._case, self._progress = case, progress
        tokens = torch.from_numpy(work.rows.astype("int64"))
        self._rows = torch.cat([tokens, tokens[..., -1:]], dim=-1)

    def first(self) -> Iterator[torch.Tensor]:
        """A micro-batch to check the settings with, which `fit` insists on."""
        yield self._rows[0].chunk(self._case.accumulate)[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        for step, rows in enumerate(self._rows):
            if step:
                self._progress.after(step, None)
            yield from rows.chunk(self._case.accumulate)


def ray_train(case: Case) -> None:
    """Ray Train's TorchTrainer with the plain loop in it."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    names = ("PYTHONPATH", "OMP_NUM_THREADS", PROGRESS)
    here = {name: os.environ.get(name, "") for name in names}
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            address="local",
            num_cpus=case.world_size * case.threads,
            include_dashboard=False,
            runtime_env={"env_vars": {**here, **allocator()}},
            log_to_driver=False,
        )
        TorchTrainer(
            _ray_loop,
            train_loop_config={"case": case.to_json()},
            scaling_config=ScalingConfig(
                num_workers=case.world_size, resources_per_worker={"CPU": case.threads}
            ),
            run_config=RunConfig(name="bench", storage_path=folder),
        ).fit()
        ray.shutdown()


def _ray_loop(config: dict[str, str]) -> None:
    import ray.train
    from ray.train.torch import prepare_model

    case = Case(**json.loads(config["case"]))
    rank = ray.train.get_context().get_world_rank()
    work = work_of(case, rank)
    model = prepare_model(work.lm, parallel_strategy_kwargs={"gradient_as_bucket_view": True})
    run_plain(case, work, model, Progress(rank))


def allocator() -> dict[str, str]:
    """How every process here keeps its memory: as Manta's workers do, which is faster."""
    from manta.elastic.worker.environment import CPU_ALLOCATOR

    return CPU_ALLOCATOR


LOOPS: dict[str, Callable[[Case], None]] = {
    "plain": plain,
    "accelerate": accelerate,
    "trainer": trainer,
    "litgpt": litgpt,
    "ray_train": ray_train,
}


def main() -> None:
    """Train one case with one loop."""
    name, case = sys.argv[1:]
    logging.disable(logging.WARNING)
    LOOPS[name](Case(**json.loads(Path(case).read_text())))


if __name__ == "__main__":
    main()

"""What the engine's step costs beside a plain loop's, as a ratio: part of `smoke.py`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import random_corpus
import torch
from plain_step import plain_step
from transformers import AutoModelForCausalLM

from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.model import hf_config
from manta.schedule import Schedule
from manta.stream import plan
from manta.train.engine import Engine

SEQ_LEN, BATCH, VOCABULARY = 128, 8, 512
WARMUP, PAIRS = 5, 150
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": SEQ_LEN,
}


def step_over_plain() -> float:
    """Rate of the engine over that of the plain loop: the median over pairs of steps in turn.

    A micro model in fp32, so that what the engine adds to a step shows, and one thread, which
    waits for no other one on a busy machine. Both take the same batches.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _median_ratio(Path(folder))
    finally:
        torch.set_num_threads(threads)


def _median_ratio(folder: Path) -> float:
    manifest = random_corpus.write(folder, shard_count=1, shard_tokens=2**20, vocab_size=VOCABULARY)
    config = config_of(folder)
    schedule = Schedule.resolve(config.schedule, SEQ_LEN)
    corpus = plan.open_corpus(str(folder), manifest, "train", SEQ_LEN, config.run.seed)
    batches = plan.local_stream(corpus, schedule, cursor=0, rank=0, world_size=1)
    resolved = hf_config.resolve(config, Vocabulary(VOCABULARY))
    engine, model = Engine(config, resolved), AutoModelForCausalLM.from_config(resolved)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ratios = []
    for batch in islice(batches, WARMUP + PAIRS):
        sides = [
            lambda batch=batch: engine.step(batch),
            lambda batch=batch: plain_step(model, optimizer, batch.samples["tokens"]),
        ]
        # Whoever goes first may find the caches cold, or the other's left: they take turns.
        order = (0, 1) if batch.step.step % 2 else (1, 0)
        seconds = dict(zip(order, [_seconds(sides[side]) for side in order], strict=True))
        ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios[WARMUP:])


def config_of(folder: Path) -> RunConfig:
    """A run of the micro model that lasts longer than the measurement."""
    return RunConfig.model_validate(
        {
            "run": {"name": "smoke"},
            "corpus": str(folder),
            "model": {"type": "llama", "sizes": SIZES},
            "train": {"seq_len": SEQ_LEN, "micro_batch": BATCH},
            "schedule": {"horizon": 2**20, "lr": 1e-3, "batch": BATCH},
        }
    )


def _seconds(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began

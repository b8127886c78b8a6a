"""One loop with one set of options on one device, in a process of its own: part of `gpu.py`.

    python benchmarks/gpu_case.py CASE_AS_JSON CORPUS

prints one line of JSON: rates in tokens/s of several stretches, seconds of a step's phases, peak
memory in bytes, the loss of the first step, and MFU for a rate of one token/s.
"""

from __future__ import annotations

import json
import mmap
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from gpu_columns import LLAMA_1B, MICRO, Case
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.model import assembly, attention, cross_entropy, hf_config
from manta.model.cross_entropy import IGNORE
from manta.model.loss_head import fuse
from manta.objective.causal import TokenLoss, labels_of
from manta.optimizer import build as optimizers
from manta.sample.tokens import position_ids
from manta.schedule import Schedule
from manta.state import tensor_layout
from manta.state.copying import DeviceCopy, HostCopy
from manta.stream import plan
from manta.stream.plan import RankBatch
from manta.train import throughput
from manta.train.arriving import Arriving
from manta.train.engine import Engine
from manta.train.pause import Agreement

WARMUP, STRETCHES, DISSECTED = 5, 5, 5
FORBIDDEN = ("ray", "wandb")


def config_of(case: Case, corpus: Path) -> RunConfig:
    """The run that the engine is given; the bare loop reads from it what both share."""
    return RunConfig.model_validate(
        {
            "run": {"name": "gpu"},
            "corpus": str(corpus),
            "model": {"type": "llama", "sizes": MICRO if case.quick else LLAMA_1B},
            "data": {"document_mask": case.options.document_mask},
            "train": {
                "seq_len": case.seq_len,
                "micro_batch": case.micro_batch,
                "precision": "bf16",
                "param_dtype": "bf16" if case.options.bf16_weights else "fp32",
                "compile": case.options.compile,
                "activation_checkpointing": case.options.checkpointing,
            },
            "schedule": {"horizon": 10**9, "lr": 1e-4, "batch": case.batch},
        }
    )


# ------------------------------------------------------------------- what is timed


class Phases:
    """Seconds of the phases of steps, by events in the device's stream or the host's clock."""

    def __init__(self, device: torch.device):
        self._on_cuda = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []
        self.on = False

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time the block as part of a phase."""
        if not self.on:
            yield
            return
        began = self._now()
        yield
        self._spans.append((name, began, self._now()))

    def timed(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, as part of a phase."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.of(name):
                return act(*args, **kwargs)

        return wrapper

    def sums(self) -> dict[str, float]:
        """The sum for each phase. Waits for the device."""
        if self._on_cuda:
            torch.cuda.synchronize()
        sums: dict[str, float] = {}
        for name, began, ended in self._spans:
            seconds = began.elapsed_time(ended) / 1e3 if self._on_cuda else ended - began
            sums[name] = sums.get(name, 0.0) + seconds
        return sums

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Timed(nn.Module):
    """A module whose forward pass is a phase."""

    def __init__(self, inner: nn.Module, phases: Phases):
        super().__init__()
        self._inner, self._phases = inner, phases

    def forward(self, *args: Any) -> Any:
        """The inner module's."""
        with self._phases.of("forward"):
            return self._inner(*args)


class Snapshotting:
    """Copies of the training state into host memory now and then, as a run's snapshots are."""

    EVERY = 5  # steps; the first one, which takes its memory, ends the warming up

    def __init__(self, engine: Engine):
        self._engine, self._steps = engine, 0
        self._copy = DeviceCopy(engine.trained) if engine.device.type == "cuda" else HostCopy()
        self._buffers: list[memoryview] = []

    def after_step(self) -> None:
        """Begin a copy if one is due and the one before is done."""
        self._steps += 1
        if self._steps % self.EVERY or not self._copy.done():
            return
        pieces = tensor_layout.pieces_of(self._engine.trained)
        entries, size = tensor_layout.arrange(pieces)
        if not self._buffers:
            self._buffers = [memoryview(mmap.mmap(-1, size)) for _ in range(2)]
            self._copy.prepare(self._buffers)
        self._copy.start(pieces, entries, self._buffers[self._steps // self.EVERY % 2])


class EngineLoop:
    """`manta.train`, driven as its loop drives it."""

    def __init__(self, case: Case, config: RunConfig):
        if case.options.full_logits:
            assembly.fuse = lambda lm, like=None: None
        if case.options.stock_attention:
            assembly.attention = SimpleNamespace(
                choose=lambda lm, **_: None, follow=lambda lm, like: None
            )
        if not case.options.fused_optimizer:
            optimizers.FUSED_DEVICES = set()
        vocabulary = Vocabulary(int(config.model.sizes["vocab_size"]))
        self.engine = Engine(config, hf_config.resolve(config, vocabulary))
        self.lm, self.device = self.engine.trained.lm, self.engine.device
        self.phases = Phases(self.device)
        passes = self.engine._passes  # frozen, and shared by what sums over ranks
        object.__setattr__(passes, "model", Timed(passes.model, self.phases))
        backward = self.phases.timed("backward", passes.backward)
        object.__setattr__(passes, "backward", backward)
        self._agreement = Agreement(self.device)
        self._reads = case.options.reads_each_step
        self._coming: Arriving | None = None
        self._snapshots = Snapshotting(self.engine) if case.options.snapshots else None

    def batches(self, batches: Iterator[RankBatch]) -> Iterator[RankBatch]:
        """As the engine takes them."""
        return self.engine.clock.waited(batches)

    def step(self, batch: RankBatch) -> Tensor:
        """One update; the mean loss, still on the device."""
        result = self.engine.step(batch)
        self._agreement.after(result.votes)
        if self._snapshots is not None:
            self._snapshots.after_step()
        if self._reads:
            if self._coming is not None:
                self._coming.read()
            self._coming = Arriving(torch.stack([result.loss, result.grad_norm]))
        return result.loss


class FullLogits(nn.Module):
    """The loss that a person would write: the logits of all tokens, then cross-entropy."""

    def __init__(self, lm: nn.Module):
        super().__init__()
        self.lm = lm

    def forward(self, tokens: Tensor, labels: Tensor, _: None) -> Tensor:
        """Summed cross-entropy."""
        logits = self.lm(input_ids=tokens, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")


class BareLoop:
    """A hand-written loop: autocast, accumulation, clipping, AdamW."""

    def __init__(self, case: Case, config: RunConfig):
        vocabulary = Vocabulary(int(config.model.sizes["vocab_size"]))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.phases = Phases(self.device)
        torch.manual_seed(config.run.seed)
        self.lm = AutoModelForCausalLM.from_config(hf_config.resolve(config, vocabulary)).to(
            self.device
        )
        self.lm.train()
        if case.options.checkpointing:
            self.lm.gradient_checkpointing_enable({"use_reentrant": False})
        self._rows, self._reads = case.micro_batch, case.options.reads_each_step
        self._masks = case.options.document_mask
        self._model = _loss_of(self.lm, case, self.device)
        if case.options.compile:
            self._model.compile()
        # foreach is Torch's own choice on a GPU where it isn't told to take the fused kernel.
        kind = {"fused": True} if case.options.fused_optimizer else {"foreach": True}
        section = config.optimizer
        self._optimizer = torch.optim.AdamW(
            self.lm.parameters(),
            lr=1e-4,
            betas=section.betas,
            eps=section.eps,
            weight_decay=section.weight_decay,
            **kind,
        )

    def batches(self, batches: Iterator[RankBatch]) -> Iterator[RankBatch]:
        """As they come."""
        return batches

    def step(self, batch: RankBatch) -> Tensor:
        """One update; the mean loss, still on the device."""
        host = torch.from_numpy(batch.samples["tokens"].astype("int64"))
        if self.device.type == "cuda":
            host = host.pin_memory()
        tokens = host.to(self.device, non_blocking=True)
        positions = None
        if self._masks:
            positions = torch.from_numpy(position_ids(batch.samples)).to(self.device)
        labels = labels_of(tokens, positions)
        valid = (labels != IGNORE).sum()
        total = torch.zeros((), device=self.device)
        for first in range(0, len(tokens), self._rows):
            rows = slice(first, first + self._rows)
            with self.phases.of("forward"), torch.autocast(self.device.type, torch.bfloat16):
                places = None if positions is None else positions[rows]
                loss = self._model(tokens[rows], labels[rows], places).sum()
            total += loss.detach()
            with self.phases.of("backward"):
                (loss / valid).backward()
        torch.nn.utils.clip_grad_norm_(self.lm.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._reads:
            total.item()
        return total / valid


def _loss_of(lm: nn.Module, case: Case, device: torch.device) -> nn.Module:
    """The model with attention and loss as the engine chooses them, or as Transformers has them."""
    if not case.options.stock_attention:
        mask = case.options.document_mask
        attention.choose(lm, document_mask=mask, seq_len=case.seq_len, device=device)
    if case.options.full_logits:
        return FullLogits(lm)
    fuse(lm)
    return TokenLoss(lm)


# ---------------------------------------------------------------------- measuring


def measured(case: Case, corpus: Path) -> dict[str, Any]:
    """Warm up, time some stretches of steps, then take some steps apart."""
    config = config_of(case, corpus)
    if case.options.chunk is not None:
        cross_entropy.CHUNK = dict.fromkeys(cross_entropy.CHUNK, case.options.chunk)
        cross_entropy.LARGEST_CHUNK = case.options.chunk
    loop = EngineLoop(case, config) if case.loop == "engine" else BareLoop(case, config)
    batches = loop.batches(_batches(config, corpus))
    losses = [float(loop.step(batch)) for batch in islice(batches, WARMUP)]
    on_cuda = loop.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    tokens = case.batch * case.seq_len
    seconds = [_stretch(loop, batches, case.steps) for _ in range(STRETCHES)]
    peak = throughput.peak_flops(loop.device, config.train.precision)
    flops = throughput.flops_per_token(loop.lm, loop.lm.config, case.seq_len)
    return {
        "loop": case.loop,
        "rates": [case.steps * tokens / taken for taken in seconds],
        "tokens_per_step": tokens,
        "flops_per_token": flops,
        "mfu_per_rate": None if peak is None else flops / peak,
        "peak_memory": torch.cuda.max_memory_allocated() if on_cuda else None,
        "first_loss": losses[0],
        "phases": _dissected(loop, batches),
    }


def _batches(config: RunConfig, corpus: Path) -> Generator[RankBatch, None, None]:
    manifest = plan.Manifest.read(str(corpus))
    opened = plan.open_corpus(str(corpus), manifest, "train", config.train.seq_len, config.run.seed)
    schedule = Schedule.resolve(config.schedule, config.train.seq_len)
    return plan.local_stream(opened, schedule, cursor=0, rank=0, world_size=1)


def _stretch(loop: Any, batches: Iterator[RankBatch], steps: int) -> float:
    """Seconds of some steps, from an idle device to an idle device."""
    _wait(loop.device)
    began = time.perf_counter()
    for batch in islice(batches, steps):
        loop.step(batch)
    _wait(loop.device)
    return time.perf_counter() - began


def _dissected(loop: Any, batches: Iterator[RankBatch]) -> dict[str, float]:
    """Seconds a step of each phase; `rest` is what forward and backward leave of a step."""
    loop.phases.on = True
    waiting = 0.0

    def watched() -> Iterator[RankBatch]:
        nonlocal waiting
        for _ in range(DISSECTED):
            began = time.perf_counter()
            batch = next(batches)
            waiting += time.perf_counter() - began
            yield batch

    seconds = _stretch(loop, watched(), DISSECTED) / DISSECTED
    means = {name: total / DISSECTED for name, total in loop.phases.sums().items()}
    rest = seconds - means["forward"] - means["backward"]
    return {**means, "data": waiting / DISSECTED, "rest": rest}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure the case that was asked for."""
    case = Case(**json.loads(sys.argv[1]))
    found = measured(case, Path(sys.argv[2]))
    if loaded := [name for name in FORBIDDEN if name in sys.modules]:
        sys.exit(f"{', '.join(loaded)} loaded: the engine must not need them")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

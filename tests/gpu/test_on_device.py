"""What the engine does on whatever device it finds, beside the same in float64 on the CPU.

`benchmarks/gpu_session.sh correctness` runs these on a GPU, whose paths are others: another kernel
of AdamW, flex attention, a scaler in fp16, copies of a snapshot on a stream. Without one they are
tests of the CPU. No part of Ray and no `conftest.py` is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from file_vault import FileVault
from made_corpus import write_corpus
from torch import Tensor
from transformers import AutoModelForCausalLM

from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest, Vocabulary
from manta.model import hf_config
from manta.model.cross_entropy import IGNORE, linear_cross_entropy
from manta.objective.causal import labels_of
from manta.optimizer import build as optimizers
from manta.sample.tokens import position_ids
from manta.schedule import Schedule
from manta.state import tensor_layout
from manta.state.checkpoint_files import TrainState
from manta.state.copying import DeviceCopy, PageLocks
from manta.state.journal import Journal
from manta.state.snapshot import Snapshots
from manta.state.vault import Stamp
from manta.stream.ledger import Ledger
from manta.stream.plan import Corpus, RankBatch, local_stream, open_corpus
from manta.train.engine import Engine
from manta.train.loop import Loop, TrainingJob

pytestmark = pytest.mark.gpu
ON_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_CUDA else "cpu")
VOCAB, SEQ_LEN, STEPS = 509, 32, 4
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
# How far a loss may be from that in float64, relative.
CLOSE = {"no": 1e-4, "bf16": 1e-2, "fp16": 1e-2}
needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="only CUDA has it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("corpus")
    lengths = [[7, 50, 11, 3, 64, 20] * 8]
    write_corpus(found, {"train": lengths, "validation": [[40] * 8]}, vocab_size=VOCAB)
    return found


def config_of(folder: Path, **train: Any) -> RunConfig:
    mask, optimizer = train.pop("document_mask", False), train.pop("optimizer", {})
    return RunConfig.model_validate(
        {
            "run": {"name": "device", "storage": str(folder)},
            "corpus": str(folder),
            "model": {"type": "llama", "sizes": SIZES},
            "data": {"document_mask": mask},
            "train": {"seq_len": SEQ_LEN, "micro_batch": 3, "precision": "no", **train},
            "optimizer": optimizer,
            "guards": {"nonfinite": "skip"},
            "schedule": {"horizon": STEPS * 8 * SEQ_LEN, "lr": 1e-3, "batch": 8},
            "log": {"every": 1},
        }
    )


def engine_of(config: RunConfig) -> Engine:
    AcceleratorState._reset_state(reset_partial_state=True)  # several precisions in one process
    return Engine(config, hf_config.resolve(config, Vocabulary(VOCAB)))


def corpus_of(config: RunConfig) -> Corpus:
    manifest = Manifest.read(config.corpus)
    return open_corpus(config.corpus, manifest, "train", SEQ_LEN, config.run.seed)


def schedule_of(config: RunConfig) -> Schedule:
    return Schedule.resolve(config.schedule, SEQ_LEN)


def batches_of(config: RunConfig) -> Iterator[RankBatch]:
    stream = local_stream(corpus_of(config), schedule_of(config), cursor=0, rank=0, world_size=1)
    return islice(stream, STEPS)


def losses_of(engine: Engine, config: RunConfig) -> list[float]:
    """The mean loss of each step."""
    found = []
    for batch in batches_of(config):
        result = engine.step(batch)
        found.append(float(result.loss))
    return found


class InFloat64:
    """The same model and steps, as the mathematics say them, on the CPU."""

    def __init__(self, engine: Engine, config: RunConfig):
        self._config = config
        resolved = hf_config.resolve(config, Vocabulary(VOCAB))
        self._lm = AutoModelForCausalLM.from_config(resolved, attn_implementation="eager").double()
        self._lm.load_state_dict({k: v.cpu() for k, v in engine.trained.lm.state_dict().items()})
        self._optimizer = optimizers.build(config.optimizer, self._lm, 1)

    def loss(self, batch: RankBatch) -> Tensor:
        """The mean over all tokens that are predicted; documents by themselves if masked."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for part in self._parts(batch):
            logits = self._lm(input_ids=part[None]).logits[0, :-1]
            total = total + F.cross_entropy(logits, part[1:], reduction="sum")
            count += len(part) - 1
        return total / count

    def _parts(self, batch: RankBatch) -> Iterator[Tensor]:
        tokens = torch.from_numpy(batch.samples["tokens"].astype(np.int64))
        begins = torch.from_numpy(position_ids(batch.samples)) == 0
        for row, begin in zip(tokens, begins, strict=True):
            places = begin.nonzero().flatten().tolist() if self._config.data.document_mask else [0]
            for first, last in zip(places, [*places[1:], len(row)], strict=True):
                if last - first > 1:
                    yield row[first:last]

    def losses(self) -> list[float]:
        """The mean loss of each step, while it trains."""
        found = []
        for batch in batches_of(self._config):
            loss = self.loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._lm.parameters(), self._config.train.clip_norm)
            for group in self._optimizer.param_groups:
                group["lr"] = batch.step.lr
            self._optimizer.step()
            self._optimizer.zero_grad()
            found.append(float(loss.detach()))
        return found


@pytest.mark.parametrize(
    ("precision", "compiled", "masked"),
    [
        ("no", False, False),
        ("bf16", False, False),
        pytest.param("fp16", False, False, marks=needs_cuda),
        pytest.param("no", True, False, marks=needs_cuda),  # tests/train compiles for a CPU
        ("no", False, True),
        ("bf16", False, True),
        pytest.param("bf16", True, True, marks=needs_cuda),
    ],
)
def test_losses_are_those_of_float64(
    folder: Path, precision: str, compiled: bool, masked: bool
) -> None:
    config = config_of(folder, precision=precision, compile=compiled, document_mask=masked)
    engine = engine_of(config)
    assert engine.device.type == DEVICE.type
    assert (engine.trained.scaler is not None) == (precision == "fp16")
    reference = InFloat64(engine, config)
    assert losses_of(engine, config) == pytest.approx(reference.losses(), rel=CLOSE[precision])


def test_losses_with_rounded_weights_are_close_to_float64(folder: Path) -> None:
    """Their float32 masters are what is compared with, and what the optimizer updates."""
    config = config_of(folder, precision="bf16", param_dtype="bf16")
    engine = engine_of(config)
    reference = InFloat64(engine, config)
    found = losses_of(engine, config)
    assert found == pytest.approx(reference.losses(), rel=CLOSE["bf16"])
    assert engine.trained.rounded is not None
    for master, weight in zip(
        engine.trained.lm.parameters(), engine.trained.rounded.lm.parameters(), strict=True
    ):
        assert torch.equal(master.bfloat16(), weight)


def moments(engine: Engine) -> Tensor:
    state = engine.trained.optimizer.state.values()
    return torch.cat([one["exp_avg"].detach().flatten().double().cpu() for one in state])


def test_a_gradient_is_cut_to_its_norm(folder: Path) -> None:
    """By `grad_scale` of a fused optimizer, as it reads the gradient."""
    limit = 1e-3
    config = config_of(folder, clip_norm=limit)
    engine = engine_of(config)
    result = engine.step(next(batches_of(config)))
    assert float(result.grad_norm) > 10 * limit
    cut = (1 - config.optimizer.betas[0]) * limit
    assert float(moments(engine).norm()) == pytest.approx(cut, rel=1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        {},
        {"type": "muon"},
        {"type": "lion"},
        {"type": "sgd"},
        {"cautious": True, "average": {"half_life": "50%"}},
    ],
    ids=str,
)
def test_a_bad_step_changes_nothing(folder: Path, optimizer: dict[str, Any]) -> None:
    """By `found_inf` of the optimizer, without a look at the device."""
    config = config_of(folder, optimizer=optimizer)
    engine = engine_of(config)
    first, second, third = islice(batches_of(config), 3)
    engine.step(first)

    def everything() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in tensor_layout._named_tensors(engine.trained)}

    before, forward = everything(), engine.model.forward
    engine.model.forward = lambda *inputs: forward(*inputs) * float("nan")
    engine.step(second)
    after = everything()
    assert all(torch.equal(before[name], after[name]) for name in before)
    engine.model.forward = forward
    engine.step(third)
    after = everything()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert not same, same


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_loss_is_that_of_float64(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(70, 64, device=DEVICE).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, 64, device=DEVICE).mul(0.1).requires_grad_()
    labels = torch.randint(0, VOCAB, (70,), device=DEVICE)
    labels[::5] = IGNORE
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, None, labels)
    loss.backward()
    leaves = [x.detach().double().cpu().requires_grad_() for x in (hidden, weight)]
    logits = F.linear(*leaves)
    F.cross_entropy(logits, labels.cpu(), ignore_index=IGNORE, reduction="sum").backward()
    wanted = F.cross_entropy(logits, labels.cpu(), ignore_index=IGNORE, reduction="sum")
    close = 1e-5 if dtype == torch.float32 else 2e-2
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=close)
    for mine, leaf in zip((hidden, weight), leaves, strict=True):
        assert mine.grad is not None
        assert leaf.grad is not None
        error = (mine.grad.double().cpu() - leaf.grad).norm() / leaf.grad.norm()
        assert float(error) < close


def test_a_snapshot_goes_from_the_device_and_back(folder: Path, tmp_path: Path) -> None:
    """While the next step runs, whose update has to wait for the copy."""
    config = config_of(folder, precision="bf16")
    engine, memory = engine_of(config), tmp_path / "memory"
    journal = Journal(engine.ranks, Ledger(tmp_path / "ledger"), 1, lambda: 0)
    snapshots = Snapshots(engine.trained, FileVault(memory, 0), 1, 1)
    batches = batches_of(config)
    for batch in islice(batches, 2):
        journal.consumed(batch.step, engine.step(batch).digest)
    wanted = {name: value.clone() for name, value in tensor_layout._named_tensors(engine.trained)}
    state = TrainState(step=2, cursor=16, tokens=16 * SEQ_LEN)
    assert snapshots.take(state, journal)
    engine.step(next(batches))
    assert snapshots._settle()
    other = engine_of(config)
    found = Snapshots(other.trained, FileVault(memory, 0), 2, 1)
    assert found.newest() == [Stamp(2, 1)]
    restored = found.restore(Stamp(2, 1), 0)
    assert restored is not None
    assert restored.state == state
    for name, value in tensor_layout._named_tensors(other.trained):
        assert torch.equal(value, wanted[name]), name


@needs_cuda
def test_memory_that_cannot_be_locked_twice_does_not_fail_the_next_kernel(caplog: Any) -> None:
    buffer = memoryview(bytearray(2**20))
    first, second = PageLocks(DEVICE), PageLocks(DEVICE)
    first.replace([buffer])
    second.replace([buffer])
    assert "can't be page-locked" in caplog.text
    assert float(torch.ones(1, device=DEVICE) + 1) == 2
    first.replace([])


@needs_cuda
def test_page_locked_memory_is_copied_to_beside_the_host(folder: Path) -> None:
    copy = DeviceCopy(engine_of(config_of(folder)).trained)
    one = tensor_layout.piece("x", torch.randn(2**22, device=DEVICE))
    entries, size = tensor_layout.arrange([one])
    buffer = memoryview(bytearray(size))
    copy.prepare([buffer])
    copy.start([one], entries, buffer)
    copy.wait()
    assert copy.done()
    assert copy.seconds > 0
    found = entries[0].view(torch.frombuffer(buffer, dtype=torch.uint8))
    assert torch.equal(found, one.local.cpu())
    copy.prepare([])


class Rows:
    """A reporter that keeps the rows of metrics."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def metrics(self, row: Any, spent: Any) -> None:
        self.rows.append(dict(row))

    def recorded(self) -> int:
        return len(self.rows)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def test_a_row_of_the_log_says_what_the_device_did(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, precision="bf16")
    schedule, corpus, reporter = schedule_of(config), corpus_of(config), Rows()
    job = TrainingJob(config, schedule, corpus, None, tmp_path, 1, "", "here")
    outcome = Loop(job, engine_of(config), reporter).run(
        lambda cursor: local_stream(corpus, schedule, cursor=cursor, rank=0, world_size=1)
    )
    assert outcome == "finished"
    rows = [row for row in reporter.rows if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert json.loads(json.dumps(rows)) == rows
    if ON_CUDA:
        assert all(row["peak_memory"] > 0 for row in rows)
        print(f"MFU of {torch.cuda.get_device_name()}: {rows[-1].get('mfu')}")
    assert (tmp_path / "checkpoints" / f"step-{STEPS:012d}" / "state.json").exists()


@needs_cuda
def test_a_step_that_logs_waits_for_none_of_its_values(folder: Path, tmp_path: Path) -> None:
    """Torch raises where the host would wait for what it has queued."""
    config = config_of(folder, precision="bf16")
    schedule, corpus, reporter = schedule_of(config), corpus_of(config), Rows()
    job = TrainingJob(config, schedule, corpus, None, tmp_path, 1, "", "here")
    loop = Loop(job, engine_of(config), reporter)
    advance, watched = loop._advance, []

    def advancing(batch: RankBatch) -> None:
        if 1 < batch.step.number < STEPS:  # the first row waits, and the last
            watched.append(batch.step.number)
            torch.cuda.set_sync_debug_mode("error")
        try:
            advance(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    loop._advance = advancing  # type: ignore[method-assign]
    loop.run(lambda cursor: local_stream(corpus, schedule, cursor=cursor, rank=0, world_size=1))
    assert watched == [2, 3]
    assert [row["step"] for row in reporter.rows if "loss" in row] == list(range(1, STEPS + 1))


def test_labels_begin_anew_with_each_document() -> None:
    tokens, positions = torch.arange(6)[None], torch.tensor([[0, 1, 2, 0, 1, 2]])
    assert labels_of(tokens.to(DEVICE), positions.to(DEVICE))[0, 2].item() == IGNORE

"""A small run, in the current folder with its corpus, and what there is to compare of its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from made_corpus import write_corpus
from plain_runs import engine_of
from whole_runs import train_whole

from manta.config import MantaError
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest
from manta.elastic.checks.preflight import Checked, check, check_continues
from manta.elastic.checks.verifying import verify_run
from manta.record.verify_run import Verified
from manta.state.checkpoint_files import newest
from manta.state.loading import load
from manta.stream.ledger import Ledger

STEP = 16 * 7  # tokens
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def config_of(name: str = "run", **changes: Any) -> RunConfig:
    """The config of the run `name` in the current folder, which has a corpus too."""
    return RunConfig.model_validate(
        {
            "run": {"name": name, "storage": ".", "seed": 3},
            "corpus": "corpus",
            "model": {"type": "llama", "sizes": SIZES},
            "train": {"seq_len": 16, "micro_batch": 4},
            "schedule": {"horizon": STEP * 12, "lr": 1e-3, "batch": 7},
            "checkpoint": {"every": 4 * STEP, "keep": 2},
            "eval": {"every": 4 * STEP, "tokens": 160},
            "log": {"every": 0},
            "wandb": {"mode": "disabled"},
            **changes,
        }
    )


def opened(config: RunConfig) -> Checked:
    """All that is looked at before anything starts."""
    checked = check(config)
    check_continues(checked)
    return checked


def end_of(checked: Checked) -> tuple[dict[str, torch.Tensor], Any, Any]:
    """Weights at the end, what each step consumed, if its ledger can be read, and the losses."""
    engine = engine_of(checked)
    load(newest(checked.place / "checkpoints"), engine.trained)
    weights = {name: p.detach().clone() for name, p in engine.trained.lm.named_parameters()}
    try:
        rows = Ledger(checked.place / "ledger.parquet").read().to_pylist()
    except MantaError:
        return weights, None, curve_of(checked.run_dir)
    consumed = [(row["step"], row["digest"], row["skipped"]) for row in rows]
    return weights, consumed, curve_of(checked.run_dir)


def make_corpus_here() -> None:
    """The corpus of these runs, in the current folder."""
    layout = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 30]}
    write_corpus(Path("corpus"), layout, vocab_size=61)  # type: ignore[arg-type]
    give_tokenizer(Path("corpus"))


def give_tokenizer(corpus: Path) -> None:
    """Files of which the manifest has the checksums; what is in them nobody asks here."""
    sums = {}
    for name, key in (("", "tokenizer_sha256"), ("_config", "tokenizer_config_sha256")):
        content = b"{\n" + name.encode() + b"\n}\n"
        (corpus / f"tokenizer{name}.json").write_bytes(content)
        sums[key] = hashlib.sha256(content).hexdigest()
    Manifest.read(corpus).model_copy(update=sums).sealed().write(corpus)


def curve_of(run: Path) -> dict[tuple[int, bool], float]:
    """The losses of a run by step, those of evaluations apart."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(row["step"], "loss" in row): row.get("loss", row.get("val_loss")) for row in rows}


def said_by(act: Callable[[], Verified]) -> str:
    """What `manta verify` prints, or why it refuses."""
    try:
        return "\n".join(act().lines())
    except MantaError as error:
        return str(error)


def check_goes_on(config: RunConfig, path: Path, expected: Any) -> None:
    """Train a run of which a file is damaged, and see that the outcome is one of the three."""
    run = Path(config.run.name)
    said = [said_by(lambda: verify_run(run))]
    try:
        checked = opened(config)
        said += train_whole(checked)
    except MantaError:
        return  # refused, told
    weights, consumed, curve = end_of(checked)
    assert weights.keys() == expected[0].keys()
    assert all(torch.equal(weights[key], expected[0][key]) for key in weights)
    if (consumed, curve) != expected[1:]:
        said.append(said_by(lambda: verify_run(run)))
        told = path.parent.name if path.suffix == ".parquet" else path.name
        assert told in "\n".join(said)
    assert consumed in (expected[1], None), "what can be read of a ledger is right"
    assert curve.items() <= expected[2].items() or "metrics.jsonl was changed" in "\n".join(said)

"""What becomes of a run when any one of its files is damaged in any way.

The outcome is *exact* (the same weights and ledger as an undisturbed run), *exact from an older
state, told*, or *refused, told*. It is never anything else. Runs are trained once and copied for
each case; what is called is what `manta train` and `manta verify` call.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from made_corpus import write_corpus
from plain_runs import engine_of
from whole_runs import train_whole

from manta.config import MantaError
from manta.config.run import RunConfig
from manta.elastic.preflight import Checked, check, check_continues
from manta.elastic.verifying import verify_run
from manta.stream.ledger import Ledger
from manta.track.verify import Verified
from manta.train.loading import load
from manta.train.saved import newest

STEP = 16 * 7  # tokens
KILLED = 9
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
    load(newest(checked.place / "checkpoints"), engine)
    weights = {name: p.detach().clone() for name, p in engine.lm.named_parameters()}
    try:
        rows = Ledger(checked.place / "ledger.parquet").read().to_pylist()
    except MantaError:
        return weights, None, curve_of(checked.run_dir)
    consumed = [(row["step"], row["digest"], row["skipped"]) for row in rows]
    return weights, consumed, curve_of(checked.run_dir)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, an undisturbed run, and one that was killed after step 9."""
    home = tmp_path_factory.mktemp("made")
    layout = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 30]}
    write_corpus(home / "corpus", layout, vocab_size=61)  # type: ignore[arg-type]
    with chdir(home):
        train_whole(opened(config_of("whole")))
        train_whole(opened(config_of()), until=KILLED)
    return home


@pytest.fixture(scope="module")
def expected(made: Path) -> Any:
    with chdir(made):
        return end_of(opened(config_of("whole")))


FILES = [
    *("run.json", "config.yaml", "metrics.jsonl"),
    *(f"ledger.parquet/{0}", f"ledger.parquet/{1}"),
    *(f"checkpoints/1/{name}" for name in ("state.json", ".metadata", "__0_0.distcp")),
    *("checkpoints/1/metrics.jsonl", "checkpoints/0/__0_0.distcp"),
    *("../corpus/manifest.json", "../corpus/train-00000.arrow"),
]


def _file(run: Path, name: str) -> Path:
    """A file of a run; a number stands for one of several, in their order."""
    for part in name.split("/"):
        run = sorted(run.iterdir())[int(part)] if part.isdigit() else run / part
    return run


def _flip(content: bytes) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[len(changed) // 2] ^= 4
    return bytes(changed)


def _spoil_a_line(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    middle = len(lines) // 2
    return b"".join([*lines[:middle], b"spoiled\n", *lines[middle + 1 :]])


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "zeroed": lambda content: bytes(len(content)),
    "one bit": _flip,
    "one line": _spoil_a_line,
}


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all, without the undisturbed run, as the current folder."""
    copied = tmp_path / "home"
    shutil.copytree(made, copied, ignore=shutil.ignore_patterns("whole", "report.html"))
    monkeypatch.chdir(copied)
    return copied


def damaged(path: Path, damage: str) -> bool:
    """Damage a file; false if that changes nothing."""
    before = path.read_bytes()
    after = DAMAGES[damage](before)
    if after is None:
        path.unlink()
    elif after != before:
        path.write_bytes(after)
    return after != before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_run(home: Path, expected: Any, name: str, damage: str) -> None:
    run = home / "run"
    path = _file(run, name)
    if not damaged(path, damage):
        return
    said = [said_by(lambda: verify_run(run))]
    try:
        checked = opened(config_of())
        said += train_whole(checked)
    except MantaError:
        return  # refused, told
    weights, consumed, curve = end_of(checked)
    assert weights.keys() == expected[0].keys()
    assert all(torch.equal(weights[key], expected[0][key]) for key in weights)
    if (consumed, curve) != expected[1:]:
        said.append(said_by(lambda: verify_run(run)))
        told = Path(name).parent.name if name.startswith("ledger") else path.name
        assert told in "\n".join(said)
    assert consumed in (expected[1], None), "what can be read of a ledger is right"
    assert curve.items() <= expected[2].items() or "metrics.jsonl was changed" in "\n".join(said)


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


def test_an_undisturbed_run_is_verified_and_goes_on(home: Path, expected: Any) -> None:
    assert verify_run(home / "run").consumed.steps == 8
    assert train_whole(opened(config_of())) == []
    found = verify_run(home / "run")
    assert found.consumed.steps == 12
    assert len(found.unchecked) == 1, found.unchecked
    weights, *rest = end_of(check(config_of()))
    assert tuple(rest) == expected[1:]
    assert all(torch.equal(weights[key], expected[0][key]) for key in weights)

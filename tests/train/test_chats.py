"""Runs on conversations: as exact as any, and refused where they would train on something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_prepare import prepared_chats
from plain_runs import engine_of, losses, proof, run_ranks, train
from row_runs import row_run

from manta.config.errors import ConfigError
from manta.elastic.checks.preflight import Checked
from manta.stream.plan import order_of, reader_of
from manta.train.evaluate import evaluate

LENGTH, STEPS = 48, 8
Build = Callable[..., Checked]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The same conversations, packed and one a row."""
    return prepared_chats(tmp_path_factory.mktemp("chats"), LENGTH)


@pytest.fixture
def chats(checked: Build, corpora: dict[bool, Path]) -> Build:
    def build(name: str, packing: bool = True, **changes: Any) -> Checked:
        base = row_run(corpora[packing], "chat", LENGTH, STEPS)
        return checked({**base, "run.name": name, "data.document_mask": packing, **changes})

    return build


def validated(rows: list[dict[str, Any]]) -> dict[int, float]:
    return {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}


@pytest.mark.parametrize("per", ["token", "sequence"])
def test_the_same_conversations_and_losses_at_any_world_size_through_kills(
    chats: Build, per: str
) -> None:
    alone = chats("alone", **{"objective.per": per})
    rows = train(alone, 1)
    expected = losses(rows)
    assert len(expected) == STEPS
    assert expected[STEPS] < expected[1]

    mixed = chats("mixed", **{"objective.per": per})
    train(mixed, 3, die_after=5)
    found = train(mixed, 2, attempt=2)
    assert proof(mixed) == proof(alone)
    for row in found:
        if "loss" in row:
            assert row["loss"] == pytest.approx(expected[row["step"]], rel=1e-5)
    assert validated(found) == pytest.approx(validated(rows), rel=1e-5)


def test_a_resume_is_exact_to_the_bit(chats: Build) -> None:
    undisturbed = losses(train(chats("whole"), 2))
    killed = chats("killed")
    train(killed, 2, die_after=5)
    assert losses(train(killed, 2, attempt=2)) == undisturbed


def test_packing_changes_no_conversation(chats: Build) -> None:
    """An untrained model's loss over all validation conversations, packed or one a row."""
    packed, apart = (validated(train(chats(f"p{p}", p), 1))[0] for p in (True, False))
    assert packed == pytest.approx(apart, rel=1e-6)


def test_an_evaluation_is_one_division_of_sums_at_any_world_size(
    chats: Build, tmp_path: Path
) -> None:
    runs = [chats(per, **{"objective.per": per}) for per in ("token", "sequence")]
    for ranks in (1, 3):
        run_ranks(ranks, _evaluate_rank, runs, tmp_path)
    for run in runs:
        engine = engine_of(run)
        reader = reader_of(run.validation.corpus)
        alone = [engine.measure(reader.read(np.array([n]))) for n in range(reader.num_samples)]
        sums, weights = (sum(float(part) for part in parts) for parts in zip(*alone, strict=True))
        found = [path.read_text() for path in tmp_path.glob(f"{run.config.run.name}-*")]
        assert len(found) == 4
        assert len(set(found)) == 1
        assert float.fromhex(found[0]) == pytest.approx(sums / weights, rel=1e-6)


def _evaluate_rank(runs: list[Checked], out: Path) -> None:
    for run in runs:
        engine = engine_of(run)
        loss = evaluate(engine, run.validation).loss  # type: ignore[arg-type]
        place = f"{run.config.run.name}-{engine.ranks.world_size}-{engine.ranks.rank}"
        (out / place).write_text(loss.hex())


def test_killed_at_the_end_of_an_epoch_it_goes_on_with_the_next(chats: Build) -> None:
    """Each step is an epoch; the run dies after the second."""
    rows = order_of(chats("count").corpus).num_samples
    epoch = LENGTH * rows
    changes = {
        "schedule": {"horizon": epoch * 4, "lr": 3e-3, "batch": rows},
        "checkpoint.every": epoch,
        "eval.every": None,
        "train.micro_batch": 16,
    }
    alone, killed = chats("alone", **changes), chats("killed", **changes)
    expected = losses(train(alone, 1))
    train(killed, 2, die_after=2)
    found = losses(train(killed, 2, attempt=2))
    assert proof(killed) == proof(alone)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"objective.type": "causal"},
            r"trains on text, but .* holds conversations: set objective.type: chat",
        ),
        ({"train.seq_len": 32}, r"train.seq_len = 32: .* rows of 48 tokens: .* chat.length: 32"),
        ({"data.document_mask": False}, r"set data.document_mask: true; .* chat.packing: false"),
    ],
)
def test_what_does_not_fit_is_refused(chats: Build, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chats("wrong", **changes)


def test_text_has_no_answers(checked: Build) -> None:
    with pytest.raises(ConfigError, match=r"trains on conversations, but .* holds text"):
        checked({"objective.type": "chat"})

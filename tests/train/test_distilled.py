"""Distilled runs: as exact as any, over text and chats, and refused where they mean nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inline_prepare import prepared_chats
from plain_runs import losses, proof, train
from saved_models import saved_llama

from manta.config.errors import ConfigError
from manta.corpus.manifest import Manifest
from manta.elastic.checks.preflight import Checked, try_model

LENGTH, STEPS = 48, 8
Build = Callable[..., Checked]
SHOWN = ("loss", "term/distill", "term/divergence", "term/cross_entropy")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The same conversations, packed and one a row."""
    return prepared_chats(tmp_path_factory.mktemp("chats"), LENGTH)


@pytest.fixture(scope="module")
def teachers(
    tmp_path_factory: pytest.TempPathFactory, corpora: dict[bool, Path]
) -> dict[str, Path]:
    """One for text and one for chats, by the sizes of their vocabularies."""
    folder = tmp_path_factory.mktemp("teachers")
    size = Manifest.read(str(corpora[True])).vocab_size
    assert size is not None
    return {
        "text": saved_llama(folder / "text", seed=1),
        "chats": saved_llama(folder / "chats", seed=1, vocabulary=size),
    }


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is unlike the teacher, for text."""
    return saved_llama(tmp_path_factory.mktemp("students") / "text", seed=2)


@pytest.fixture
def distilled(checked: Build, corpora: dict[bool, Path], teachers: dict[str, Path]) -> Build:
    """Builds runs of some steps on text or chats, from scratch."""

    def build(name: str, of: str = "text", **changes: Any) -> Checked:
        length = 16 if of == "text" else LENGTH
        base = {
            "run.name": name,
            "objective.type": "distill",
            "objective.teacher": str(teachers[of]),
            "objective.temperature": 2.0,
            "objective.kd_ratio": 0.8,
            "train": {"seq_len": length, "micro_batch": 3},
            "schedule": {"horizon": length * 7 * STEPS, "lr": 3e-3, "batch": 7},
            "checkpoint.every": length * 7 * 3,
            "eval": {"every": length * 7 * 4, "tokens": length * 9},
        }
        if of == "chats":
            base |= {"corpus": str(corpora[True]), "data.document_mask": True}
        return checked({**base, **changes})

    return build


def shown(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {f"{key} {row['step']}": row[key] for row in rows if "loss" in row for key in SHOWN}


@pytest.mark.parametrize(
    ("of", "changes"),
    [
        ("text", {}),
        ("text", {"objective.divergence": "reverse_kl", "parallel.shard": True}),
        ("text", {"model.adapter": {"rank": 4}, "parallel.shard": True}),
        ("chats", {"objective.divergence": "jsd"}),
        ("chats", {"objective.per": "sequence", "parallel.shard": True}),
    ],
)
def test_the_same_loss_at_any_world_size_through_kills(
    distilled: Build, student: Path, of: str, changes: dict[str, Any]
) -> None:
    if "model.adapter" in changes:
        changes = {"model": {"pretrained": str(student)}, "schedule.lr": 1e-2, **changes}
    alone, mixed = (distilled(name, of, **changes) for name in ("alone", "mixed"))
    rows = train(alone, 1)
    expected = shown(rows)
    assert all(expected[f"loss {n}"] == expected[f"term/cross_entropy {n}"] for n in (1, STEPS))
    assert expected["term/distill 1"] == pytest.approx(
        0.8 * 2.0**2 * expected["term/divergence 1"] + 0.2 * expected["term/cross_entropy 1"]
    )
    train(mixed, 3, die_after=5)
    found = train(mixed, 2, attempt=2)
    assert shown(found) == pytest.approx(expected, rel=1e-5)
    assert proof(mixed) == proof(alone)
    evaluations = [
        {row["step"]: row["val_term/divergence"] for row in each if "val_loss" in row}
        for each in (rows, found)
    ]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-5)
    assert evaluations[0][STEPS] < evaluations[0][0]


def test_a_resume_is_exact_to_the_bit(distilled: Build) -> None:
    undisturbed = losses(train(distilled("whole", "chats"), 2))
    killed = distilled("killed", "chats")
    train(killed, 2, die_after=5)
    assert losses(train(killed, 2, attempt=2)) == undisturbed


def test_compiled_it_is_the_same_but_for_rounding(distilled: Build, tmp_path: Path) -> None:
    short = {
        "objective.teacher": str(saved_llama(tmp_path / "teacher", seed=1, num_hidden_layers=1)),
        "model.sizes.num_hidden_layers": 1,
        "schedule.horizon": 16 * 7 * 3,
        "eval": {},
        "train.micro_batch": 4,
    }
    plain = shown(train(distilled("plain", **short)))
    run = distilled("compiled", **short, **{"train.compile": True})
    # tests/train/test_language_model.py has kernels made, which takes a second each.
    compiled = shown(train(run, kernels=False))
    assert compiled == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    "layout",
    [
        {"train.precision": "bf16"},
        {"train.precision": "bf16", "train.param_dtype": "bf16"},
        {"train.precision": "bf16", "parallel.shard": True},
    ],
)
def test_a_student_that_begins_as_its_teacher_has_no_loss(
    distilled: Build, teachers: dict[str, Path], layout: dict[str, Any]
) -> None:
    same = {"model": {"pretrained": str(teachers["text"])}, "objective.kd_ratio": 1.0}
    same |= {"schedule.horizon": 16 * 7, "eval": {}}
    rows = [row for row in train(distilled("same", **same, **layout), 2) if "loss" in row]
    assert rows[0]["term/distill"] == 0
    assert rows[0]["loss"] > 1


def test_a_teacher_whose_tokens_are_others_is_refused(
    distilled: Build, corpora: dict[bool, Path], teachers: dict[str, Path], tmp_path: Path
) -> None:
    """Also where there are as many; the corpus's own tokenizer is taken, laid out in any way."""
    teacher = Path(shutil.copytree(teachers["chats"], tmp_path / "teacher"))
    tokenizer = json.loads((corpora[True] / "tokenizer.json").read_text())
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer, indent=7))
    distilled("right", "chats", **{"objective.teacher": str(teacher)})

    ids = tokenizer["model"]["vocab"]
    one, another = (token for token, index in ids.items() if index in (40, 41))
    ids[one], ids[another] = ids[another], ids[one]
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"has 2 other tokens .* is 40 there and 41 here"):
        distilled("wrong", "chats", **{"objective.teacher": str(teacher)})


def test_what_can_not_be_compared_is_refused(distilled: Build, teachers: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"vocabulary has 61 entries, .* trained model has \d+"):
        distilled("wrong", "chats", **{"objective.teacher": str(teachers["text"])})
    with pytest.raises(ConfigError, match=r"objective.per = 'sequence': .* holds text"):
        distilled("wrong", **{"objective.per": "sequence"})
    assert try_model(distilled("right")).whole

"""Runs on pairs of answers: begun at a margin of 0, and as exact as any."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inline_prepare import without_ray
from plain_runs import losses, proof, train
from prepared_chats import config_of, made, write_lines
from row_runs import row_run
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from manta.config.errors import ConfigError, RunError
from manta.elastic.checks.preflight import Checked, check_continues, try_model
from manta.elastic.driver.precompute import plan, precompute
from manta.model.fingerprint import fingerprint

LENGTH, STEPS = 96, 6
Build = Callable[..., Checked]


def pair(number: int) -> dict[str, Any]:
    words = [f"{number * k % 97:b}"[: 1 + number * k % 5] for k in (3, 5, 7)]
    turns = [("user", f"{words[0]}{number}"), ("assistant", words[1]), ("user", "?")]
    prompt = [{"role": role, "content": text} for role, text in turns[: 1 + number % 2 * 2]]
    answers = [f"{words[1]}!", f"{words[2]}..."][:: 1 - 2 * (number % 2)]
    return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The same pairs, packed and one a row."""
    folder = tmp_path_factory.mktemp("pairs")
    path = write_lines(folder / "a.jsonl", [pair(number) for number in range(160)])
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        for packing in (True, False):
            chat = {"records": "pairs", "length": LENGTH, "packing": packing}
            split = {"train": 0.8, "validation": 0.2, "test": 0}
            out = folder / f"{packing}"
            made(config_of(folder, path, chat=chat, split=split, out=str(out)))
            found[packing] = out
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the corpus's vocabulary, with weights that prefer something."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def run(checked: Build, corpora: dict[bool, Path], base: Path) -> Build:
    def build(name: str, packing: bool = True, **changes: Any) -> Checked:
        given = {
            **row_run(corpora[packing], "preference", LENGTH, STEPS),
            "run.name": name,
            "model": {"pretrained": str(base)},
            "schedule": {"horizon": LENGTH * 7 * STEPS, "lr": 1e-3, "batch": 7},
            "eval": {"every": LENGTH * 7 * 3, "tokens": 100_000},
        }
        return checked(_merged(given, changes))

    return build


def _merged(given: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changes of a section's keys, where both have it."""
    both = {k for k in given.keys() & changes.keys() if isinstance(given[k], dict)}
    return {**given, **changes, **{k: given[k] | changes[k] for k in both}}


def values(rows: list[dict[str, Any]], key: str) -> dict[int, float]:
    return {row["step"]: row[key] for row in rows if key in row}


def test_the_same_pairs_and_losses_at_any_world_size_through_kills(run: Build) -> None:
    alone = run("alone")
    rows = train(alone, 1)
    expected = losses(rows)
    assert len(expected) == STEPS
    assert expected[1] == pytest.approx(math.log(2), abs=1e-6)
    assert expected[STEPS] < expected[1] - 0.01

    mixed = run("mixed")
    train(mixed, 3, die_after=5)
    found = train(mixed, 2, attempt=2)
    assert proof(mixed) == proof(alone)
    for key in ("loss", "val_loss", "term/margin", "term/logp_chosen", "val_term/accuracy"):
        assert values(found, key) == pytest.approx(values(rows, key), rel=1e-5, abs=1e-6), key


def test_a_resume_is_exact_to_the_bit(run: Build) -> None:
    undisturbed = losses(train(run("whole"), 2))
    killed = run("killed")
    train(killed, 2, die_after=5)
    assert losses(train(killed, 2, attempt=2)) == undisturbed


LAYOUTS: dict[str, dict[str, Any]] = {
    "bf16": {"train.precision": "bf16"},
    "rounded": {"train.precision": "bf16", "train.param_dtype": "bf16"},
    "sharded": {"parallel.shard": True},
    "sharded in bf16": {"parallel.shard": True, "train.precision": "bf16"},
    "recomputed": {"train.activation_checkpointing": True},
    "adapter": {"model.adapter": {"rank": 4}},
    "adapter, rounded": {
        "model": {"adapter": {"rank": 4}, "frozen_dtype": "bf16"},
        "train": {"precision": "bf16", "param_dtype": "bf16"},
    },
    "adapter, sharded": {"model.adapter": {"rank": 4}, "parallel.shard": True},
    "adapter, recomputed": {
        "model.adapter": {"rank": 4},
        "train.activation_checkpointing": True,
    },
    "adapter, nf4": {"model.adapter": {"rank": 4}, "model.quantize": "nf4"},
    "adapter, int8 and sharded": {
        "model": {"adapter": {"rank": 4}, "quantize": "int8"},
        "parallel.shard": True,
    },
    "adapter and more": {"model.adapter": {"rank": 4}, "model.train": ["*embed_tokens*"]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_begins_at_ln_2_however_the_models_are_laid(run: Build, layout: str) -> None:
    """Policy and reference compute the same to the bit, so that margins are 0."""
    if "nf4" in layout or "int8" in layout:
        pytest.importorskip("bitsandbytes", reason="the extra 'quantize' is not installed")
    short = {"schedule.horizon": LENGTH * 7 * 2, "eval.every": None}
    laid = run("laid", **LAYOUTS[layout], **short)
    rows = train(laid, 2)
    assert losses(rows)[1] == pytest.approx(math.log(2), abs=1e-6)
    assert values(rows, "term/margin")[1] == pytest.approx(0, abs=1e-6)
    assert bool(laid.frozen) == ("adapter" not in layout or "more" in layout)
    assert abs(values(rows, "term/margin")[2]) > 1e-3, "the reference stays where it was"


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("layout", ["plain", "adapter", "rounded"])
def test_a_reference_that_was_precomputed_says_what_it_says_beside_the_model(
    run: Build, corpora: dict[bool, Path], tmp_path: Path, layout: str
) -> None:
    corpus = shutil.copytree(corpora[True], tmp_path / "corpus")  # files are put beside it
    changes = {"corpus": str(corpus), **LAYOUTS.get(layout, {})}
    brought = {**changes, "objective.reference": "precomputed"}
    with pytest.raises(ConfigError, match=r"objective.reference = 'precomputed': .* `manta precom"):
        run("early", **brought)
    beside = run("beside", **changes)
    objective = beside.config.objective.model_copy(update={"reference": "precomputed"})
    planned = plan(beside.config.model_copy(update={"objective": objective}))
    precompute(planned, progress=False)

    expected = train(beside, 1)
    # In bf16 two workers round gradients otherwise than one.
    found = train(run("brought", **brought), 1 if layout == "rounded" else 2)
    assert losses(found)[1] == pytest.approx(math.log(2), abs=1e-6)
    rel = 1e-5 if layout == "plain" else 1e-2
    for key in ("loss", "term/margin", "val_loss"):
        assert values(found, key) == pytest.approx(values(expected, key), rel=rel, abs=rel / 10)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "simpo", "orpo"])
def test_packing_changes_no_pair(run: Build, loss: str) -> None:
    """The loss over all validation pairs, packed or one a row, after no step."""
    rows = [train(run(f"p{p}", p, **{"objective.loss": loss}), 1) for p in (True, False)]
    for key in ("val_loss", "val_term/margin", "val_term/logp_rejected"):
        packed, apart = (values(found, key)[0] for found in rows)
        assert packed == pytest.approx(apart, rel=1e-6, abs=1e-6), key


def test_dropout_is_off_so_that_it_begins_at_ln_2(run: Build, tmp_path: Path) -> None:
    folder = tmp_path / "gpt2"
    config = GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=LENGTH, resid_pdrop=0.3
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    began = run("gpt2", **{"model.pretrained": str(folder), "schedule.horizon": LENGTH * 7})
    assert losses(train(began, 1))[1] == pytest.approx(math.log(2), abs=1e-6)
    tried = try_model(began)
    assert not [remark for remark in tried.remarks if "random" in remark]


def test_a_run_goes_on_only_beside_the_same_reference(run: Build, base: Path) -> None:
    began = run("began")
    assert began.frozen == fingerprint(base)
    began.tracker(console=False).finish("interrupted", reason="")
    check_continues(run("began"))
    content = (base / "config.json").read_text()
    try:
        (base / "config.json").write_text(content.replace("1e-06", "1e-05"))
        with pytest.raises(RunError, match=rf"fingerprint {began.frozen[:12]}.*model.pretrained ="):
            check_continues(run("began"))
    finally:
        (base / "config.json").write_text(content)
    assert not run("simpo", **{"objective.loss": "simpo"}).frozen, "it compares with nothing"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"objective.type": "chat"},
            r"trains on conversations, but .* holds pairs of answers: set objective.type: pref",
        ),
        ({"train.seq_len": 32}, r"the pairs of answers of .* rows of 96 tokens"),
        ({"data.document_mask": False}, r"set data.document_mask: true$"),
        (
            {"model": {"pretrained": None, "type": "llama"}},
            r"objective.loss = 'dpo' compares with .*: set model.pretrained",
        ),
    ],
)
def test_what_does_not_fit_is_refused(run: Build, changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        run("wrong", **changes)


def test_text_has_no_pairs(checked: Build, base: Path) -> None:
    with pytest.raises(ConfigError, match=r"trains on pairs of answers, but .* holds text"):
        checked({"objective.type": "preference", "model": {"pretrained": str(base)}})

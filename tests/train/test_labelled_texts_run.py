"""Runs on labelled texts: exact at any world size, and exported as Transformers loads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from chat_templates import chat_tokenizer
from inline_prepare import without_ray
from plain_runs import engine_of, losses, proof, train
from row_runs import row_run
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from manta.config.corpus import CorpusConfig
from manta.config.errors import ConfigError, RunError
from manta.corpus.prepare import prepare
from manta.elastic.checks.preflight import Checked, try_model
from manta.record.run_config import recorded_config
from manta.train.export import export, generate, load_weights
from manta.train.scoring import score_file

LENGTH, STEPS = 32, 8
Build = Callable[..., Checked]


def record(number: int) -> dict[str, Any]:
    """A text that says its label by a word, among others that say nothing."""
    kind, filler = number % 3, "a few words more "[: 1 + number * 7 % 17]
    return {
        "text": f"{number} {('yes', 'no', 'hm')[kind]} {filler}",
        "label": ("good", "bad", "neither")[kind],
        "value": kind - 0.5,
    }


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """The same texts labelled by classes or numbers, packed or one a row."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "a.jsonl").write_text("".join(json.dumps(record(i)) + "\n" for i in range(240)))
    tokenizer = chat_tokenizer(folder / "tokenizer")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        for labels, label in (("classes", "label"), ("numbers", "value")):
            for packing in (True, False):
                out = found[labels, packing] = folder / f"{labels}-{packing}"
                config = {
                    "out": str(out),
                    "sources": [
                        {"name": "a", "format": "jsonl", "paths": [str(folder / "a.jsonl")]}
                    ],
                    "tokenizer": {"path": str(tokenizer)},
                    "labelled": {
                        "length": LENGTH, "packing": packing, "labels": labels, "label": label
                    },
                    "split": {"train": 0.8, "validation": 0.2, "test": 0},
                }  # fmt: skip
                prepare(CorpusConfig.model_validate(config), progress=False)
    return found


@pytest.fixture
def labelled(checked: Build, corpora: dict[tuple[str, bool], Path]) -> Build:
    def build(name: str, labels: str = "classes", packing: bool = True, **changes: Any) -> Checked:
        objective = "classify" if labels == "classes" else "regression"
        base = row_run(corpora[labels, packing], objective, LENGTH, STEPS)
        return checked({**base, "run.name": name, "data.document_mask": packing, **changes})

    return build


def validated(rows: list[dict[str, Any]], key: str = "val_loss") -> dict[int, float]:
    return {row["step"]: row[key] for row in rows if key in row}


@pytest.mark.parametrize("labels", ["classes", "numbers"])
def test_the_same_texts_and_losses_at_any_world_size_through_kills(
    labelled: Build, labels: str
) -> None:
    alone = labelled("alone", labels)
    rows = train(alone, 1)
    expected = losses(rows)
    assert len(expected) == STEPS
    assert expected[STEPS] < expected[1]

    mixed = labelled("mixed", labels)
    train(mixed, 3, die_after=5)
    found = train(mixed, 2, attempt=2)
    assert proof(mixed) == proof(alone)
    for row in found:
        if "loss" in row:
            assert row["loss"] == pytest.approx(expected[row["step"]], rel=1e-5)
    shown = ("accuracy", "f1") if labels == "classes" else ("absolute_error",)
    for key in ("val_loss", *(f"val_term/{name}" for name in shown)):
        assert validated(rows, key)
        assert validated(found, key) == pytest.approx(validated(rows, key), rel=1e-5)


def test_a_resume_is_exact_to_the_bit_and_sharding_but_for_rounding(labelled: Build) -> None:
    undisturbed = losses(train(labelled("whole"), 2))
    killed = labelled("killed")
    train(killed, 2, die_after=5)
    assert losses(train(killed, 2, attempt=2)) == undisturbed
    sharded = losses(train(labelled("sharded", **{"parallel.shard": True}), 2))
    assert sharded == pytest.approx(undisturbed, rel=1e-5)


def test_packing_changes_no_score(labelled: Build) -> None:
    """An untrained model's loss over all validation texts, packed or one a row."""
    packed, apart = (
        validated(train(labelled(f"p{packing}", packing=packing), 1))[0]
        for packing in (True, False)
    )
    assert packed == pytest.approx(apart, rel=1e-6)


def write_config(run: Checked) -> None:
    (run.run_dir / "config.yaml").write_text(yaml.safe_dump(run.config.model_dump(mode="json")))


def exported(run: Checked, out: Path) -> Path:
    train(run, 1)
    write_config(run)
    return export(run.run_dir, out)


@pytest.mark.parametrize("labels", ["classes", "numbers"])
def test_transformers_loads_the_exported_model_with_the_same_scores(
    labelled: Build, tmp_path: Path, labels: str
) -> None:
    """On texts padded on either side too: what is exported is by its own class's rule."""
    run = labelled("exported", labels)
    folder = exported(run, tmp_path / "model")
    lm = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="</s>")
    texts = [record(number)["text"] for number in range(500, 506)]
    ours = load_weights(run.run_dir, recorded_config(run.run_dir), None).eval()
    for side in ("left", "right"):
        given = tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
        assert not given["attention_mask"].all()
        with torch.no_grad():
            found = lm(**given).logits
            for text, scores in zip(texts, found, strict=True):
                ids = torch.tensor([tokenizer(text)["input_ids"]])
                assert torch.allclose(ours(input_ids=ids).logits[0, -1], scores, atol=1e-5)
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    for where in (folder, run.run_dir):
        lines = score_file(where, tmp_path / "asked.jsonl", None)
        for line, scores in zip(map(json.loads, lines), found, strict=True):
            if labels == "numbers":
                assert line["score"] == pytest.approx(float(scores[0]), abs=1e-5)
                continue
            assert list(line["probabilities"]) == ["bad", "good", "neither"]
            shares = torch.tensor(list(line["probabilities"].values()))
            assert torch.allclose(shares, scores.softmax(-1), atol=1e-5)
            assert line["class"] == lm.config.id2label[int(scores.argmax())]
    if labels == "classes":
        assert lm.config.id2label == {0: "bad", 1: "good", 2: "neither"}
        assert found.shape == (6, 3)
    with pytest.raises(RunError, match="scores texts and writes none"):
        generate(folder, "a", tokens=1, temperature=0, seed=0)
    with pytest.raises(RunError, match="scores texts and writes none"):
        generate(run.run_dir, "a", tokens=1, temperature=0, seed=0)


@pytest.fixture
def base(labelled: Build, tmp_path: Path) -> tuple[LlamaForCausalLM, Path]:
    """A language model of the corpus's vocabulary, and the folder that it is in."""
    like = labelled("like")
    torch.manual_seed(0)
    lm = LlamaForCausalLM(
        LlamaConfig(vocab_size=like.manifest.vocab_size, **like.config.model.sizes)
    )
    lm.save_pretrained(tmp_path / "base")
    return lm, tmp_path / "base"


def test_a_head_is_put_on_a_language_model(
    labelled: Build, base: tuple[LlamaForCausalLM, Path]
) -> None:
    """Its weights are kept, and its output layer makes room for the head."""
    lm, folder = base
    run = labelled("headed", model={"pretrained": str(folder)})
    kept = dict(engine_of(run).trained.lm.named_parameters())
    assert kept.pop("score.weight").shape == (3, lm.config.hidden_size)
    assert kept.keys() == {name for name, _ in lm.named_parameters()} - {"lm_head.weight"}
    assert all(torch.equal(kept[name], lm.get_parameter(name)) for name in kept)


def test_a_head_is_trained_beside_an_adapter(
    labelled: Build, base: tuple[LlamaForCausalLM, Path], tmp_path: Path
) -> None:
    section = {"pretrained": str(base[1]), "adapter": {"rank": 2}}
    run = labelled("adapted", model=section)
    trained = {n for n, one in engine_of(run).trained.lm.named_parameters() if one.requires_grad}
    assert {name for name in trained if "lora" not in name} == {"score.weight"}
    assert not any("score" in name for name in trained if "lora" in name)
    train(run, 2, die_after=5)
    rows = train(run, 2, attempt=2)
    assert losses(rows) == losses(train(labelled("whole", model=section), 2))
    write_config(run)
    with pytest.raises(RunError, match=r"head for scores .* export with --merge"):
        export(run.run_dir, tmp_path / "adapter")
    folder = export(run.run_dir, tmp_path / "merged", merge=True)
    again = labelled("again", model={"pretrained": str(folder)})
    assert validated(train(again, 1))[0] == pytest.approx(validated(rows)[STEPS], rel=1e-5)


def test_a_run_goes_on_from_an_exported_head_for_the_same_classes_alone(
    labelled: Build, checked: Build, tmp_path: Path
) -> None:
    first = exported(labelled("first"), tmp_path / "model")
    again = labelled("again", model={"pretrained": str(first)})
    rows = (tmp_path / "first" / "rows.jsonl").read_text().splitlines()
    at_the_end = validated([json.loads(row) for row in rows])[STEPS]
    assert validated(train(again, 1))[0] == pytest.approx(at_the_end, rel=1e-5)
    with pytest.raises(ConfigError, match=r"head is for 3 scores \(bad, good, neither\).* for 1"):
        try_model(labelled("other", "numbers", model={"pretrained": str(first)}))
    with pytest.raises(ConfigError, match="it scores texts, and has no output layer for tokens"):
        try_model(checked({"model": {"pretrained": str(first)}}))


@pytest.mark.parametrize(
    ("labels", "changes", "said"),
    [
        ("classes", {"objective.type": "causal"}, "set objective.type: classify or regression"),
        ("classes", {"objective.type": "regression"}, "are classes: set objective.type: classify"),
        ("numbers", {"objective.type": "classify"}, "are numbers: set objective.type: regression"),
        (
            "classes",
            {"objective.type": "chat"},
            "trains on conversations, but .* holds labelled texts: set objective.type: classify",
        ),
        ("classes", {"train.seq_len": 16}, r"rows of 32 tokens: .* labelled.length: 16"),
        ("classes", {"data.document_mask": False}, r"labelled.packing: false"),
    ],
)
def test_what_does_not_fit_is_refused(
    labelled: Build, labels: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        labelled("wrong", labels, **changes)


def test_a_type_without_a_head_is_refused(labelled: Build) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    run = labelled("mamba", model={"type": "mamba", "sizes": sizes})
    with pytest.raises(ConfigError, match="no class with a head for scores for mamba"):
        try_model(run)


def test_text_has_no_labels(checked: Build) -> None:
    with pytest.raises(ConfigError, match=r"trains on labelled texts, but .* holds text"):
        checked({"objective.type": "classify"})

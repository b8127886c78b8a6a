"""Evaluations of runs on chats and on labelled texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import chat_tokenizer
from evaluated_runs import evaluation, lines, trained_run
from inline_prepare import without_ray
from prepared_chats import config_of, made

from manta.config.corpus import CorpusConfig
from manta.config.errors import ConfigError, RunError
from manta.config.load_evaluation import load_evaluation
from manta.corpus.prepare import prepare
from manta.evaluate.calibration_measures import ece
from manta.evaluate.run_evaluation import evaluate
from manta.record.evaluation_record import read_evaluation, read_examples
from manta.record.run_state import read_state
from manta.train.scoring import score_file

LENGTH, ROWS = 64, 8


@pytest.fixture(autouse=True)
def _inline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        yield


def run_of(folder: Path, corpus: str, objective: str) -> Path:
    step = LENGTH * ROWS
    return trained_run(
        folder,
        Path(corpus),
        objective={"type": objective},
        data={"document_mask": True},
        train={"seq_len": LENGTH, "micro_batch": 4},
        schedule={"horizon": step * 10, "lr": 1e-2, "batch": ROWS},
        checkpoint={},
        eval={"every": step * 10, "tokens": "1M"},
    )


def test_chats_are_measured_as_in_training_and_answer_by_their_template(tmp_path: Path) -> None:
    records = [
        {"prompt": f"{n * 7 % 83}?", "completion": "yes" + "!" * (n % 5)} for n in range(120)
    ]
    config = config_of(tmp_path, lines(tmp_path / "a.jsonl", records), chat={"length": LENGTH})
    made(config)
    run = run_of(tmp_path, config.out, "chat")
    lines(tmp_path / "prompts.jsonl", [{"prompt": "7?", "regex": "^y"}, {"prompt": "8?"}])
    path = evaluation(
        tmp_path,
        splits={"held_out": {}},
        generations={"answers": {"file": "prompts.jsonl", "tokens": 4}},
    )
    folder = evaluate(run, None, load_evaluation(path))
    record = read_evaluation(folder)
    loss = read_state(run).results.val_loss
    assert record.evaluators["held_out"].values["loss"] == pytest.approx(loss, abs=1e-6)
    rows = [row for row in read_examples(folder, record) if row.evaluator == "answers"]
    assert [row.shown["answer"][:1] for row in rows if "success" in row.sums] == ["y"]
    assert sum("success" in row.sums for row in rows) == 1
    with pytest.raises(ConfigError, match=r"held_out.length = 32: .* packed into rows of 64"):
        evaluate(run, None, load_evaluation(path, ["splits.held_out.length=32"]))
    with pytest.raises(RunError, match=r"tokens, and 500 for the answer, .* context is 128"):
        evaluate(run, None, load_evaluation(path, ["generations.answers.tokens=500"]))


def labelled(number: int) -> dict[str, Any]:
    kind = number % 2
    return {"text": f"{number} {('yes', 'no')[kind]}", "label": ("good", "bad")[kind]}


def test_a_classifier_is_as_sure_as_its_scores_say(tmp_path: Path) -> None:
    config = {
        "out": str(tmp_path / "corpus"),
        "sources": [{"name": "a", "format": "jsonl", "paths": [str(tmp_path / "a.jsonl")]}],
        "tokenizer": {"path": str(chat_tokenizer(tmp_path / "tokenizer"))},
        "labelled": {"length": LENGTH, "packing": True},
        "split": {"train": 0.8, "validation": 0.2, "test": 0},
    }
    lines(tmp_path / "a.jsonl", [labelled(number) for number in range(200)])
    prepare(CorpusConfig.model_validate(config), progress=False)
    run = run_of(tmp_path, config["out"], "classify")
    asked = lines(tmp_path / "asked.jsonl", [labelled(number) for number in range(200, 230)])
    path = evaluation(tmp_path, calibration={"labels": {"file": "asked.jsonl"}})
    found = read_evaluation(evaluate(run, None, load_evaluation(path))).evaluators["labels"]
    scored = [json.loads(line) for line in score_file(run, asked, None)]
    confidence = [max(one["probabilities"].values()) for one in scored]
    right = [one["class"] == one["label"] for one in scored]
    assert found.values["accuracy"] == pytest.approx(np.mean(right))
    assert found.values["confidence"] == pytest.approx(np.mean(confidence), abs=1e-5)
    assert found.values["ece"] == pytest.approx(ece(confidence, right), abs=0.1)
    for sections, said in (
        ({"splits": {"x": {}}}, "are texts of the format 'labelled'"),
        ({"calibration": {"x": {"file": "choices.jsonl"}}}, "has choices, for a language model"),
    ):
        lines(tmp_path / "choices.jsonl", [{"prompt": "a", "choices": ["b", "c"], "answer": 0}])
        with pytest.raises((ConfigError, RunError), match=said):
            evaluate(run, None, load_evaluation(evaluation(tmp_path, **sections)))

"""Tasks of lm-evaluation-harness: the same results as its own command line has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from evaluated_runs import evaluation, lines, text_corpus, trained_run
from inline_prepare import without_ray

from manta.config import extras
from manta.config.errors import ConfigError, RunError
from manta.config.load_evaluation import load_evaluation
from manta.evaluate.run_evaluation import evaluate
from manta.record.evaluation_record import read_evaluation, read_examples
from manta.train.export import export

TASK = {
    "task": "mine",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    records = [
        {"question": f"web {n} the", "choices": ["fox", "dog runs", "zzz"], "answer": n % 3}
        for n in range(20)
    ]
    files = {"test": str(lines(tmp_path / "mine.jsonl", records))}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**TASK, "dataset_kwargs": {"data_files": files}}))
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        yield path


def test_results_are_those_of_the_harness_itself(task: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    run = trained_run(tmp_path, text_corpus(tmp_path))
    config = load_evaluation(evaluation(tmp_path, tasks={"mine": {"task": "mine.yaml"}}))
    folder = evaluate(run, None, config)
    found = read_evaluation(folder).evaluators["mine"]
    assert found.better == {"acc": "max", "acc_norm": "max"}
    assert len(read_examples(folder, read_evaluation(folder))) == found.examples == 20

    model, out = export(run, tmp_path / "model"), tmp_path / "results"
    subprocess.run(
        [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--tasks", "mine",
         "--model_args", f"pretrained={model},dtype=float32", "--include_path", str(tmp_path),
         "--output_path", str(out)],
        check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True,
    )  # fmt: skip
    (file,) = out.rglob("results_*.json")
    expected = json.loads(file.read_text())["results"]["mine"]
    for metric in ("acc", "acc_norm"):
        assert found.values[metric] == pytest.approx(expected[f"{metric},none"], abs=1e-6)


def test_a_task_that_is_not_there_is_named(task: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    run = trained_run(tmp_path, text_corpus(tmp_path))
    config = load_evaluation(evaluation(tmp_path, tasks={"mine": {"task": "no_such_task"}}))
    with pytest.raises(RunError, match="has no such task; give the path of a task's YAML file"):
        evaluate(run, None, config)
    text = task.read_text().replace("mine.jsonl", "gone.jsonl")
    task.write_text(text)
    config = load_evaluation(evaluation(tmp_path, tasks={"mine": {"task": "mine.yaml"}}))
    with pytest.raises(RunError, match="its data can't be had"):
        evaluate(run, None, config)


def test_without_the_harness_it_says_what_to_install(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(extras, "import_module", missing)
    run = trained_run(tmp_path, text_corpus(tmp_path))
    config = load_evaluation(evaluation(tmp_path, tasks={"mine": {"task": "mine.yaml"}}))
    with pytest.raises(ConfigError, match=r"pip install 'manta-train\[eval\]'"):
        evaluate(run, None, config)

"""An evaluation of a small run: its numbers are those of training, whatever the order or place."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from evaluated_runs import evaluation, lines, text_corpus, trained_run
from inline_prepare import without_ray
from typer.testing import CliRunner

from manta import cli
from manta.config.errors import ConfigError, MantaError, RunError
from manta.config.load_evaluation import load_evaluation
from manta.evaluate.run_evaluation import evaluate
from manta.record.audit_log import read_log
from manta.record.evaluation_record import (
    ExampleRow,
    evaluations_of,
    ratios,
    read_evaluation,
    read_examples,
)
from manta.record.run_state import read_state
from manta.train.export import export

PROMPTS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "web 1 fox", "contains": "e", "topic": "web", "context": "the fox"},
    {"id": "b", "prompt": "code 2", "regex": "zzz", "topic": "code"},
    {"id": "c", "prompt": "web 3 the", "topic": "web", "expect": "refusal"},
]
CHOICES = [
    {"id": n, "prompt": f"web {n} the", "choices": [" fox", " dog runs", " zzz"], "answer": n % 2}
    for n in range(6)
]
OWN = """
def measure(model, text):
    return [{"id": str(n), "half": n / 2, "kind": "ab"[n % 2]} for n in range(4)]

def numbers(model):
    return {"weights": model.parameters, "text": len(model.answer([1, 2], tokens=3).text)}

def broken(model):
    return {"weights": "many"}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        text_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    return trained_run(home, home / "corpus")


def everything(folder: Path, prompts: list[Any], choices: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines(folder / "prompts.jsonl", prompts)
    lines(folder / "choices.jsonl", choices)
    (folder / "mine.py").write_text(OWN)
    return evaluation(
        folder,
        splits={"held_out": {}},
        generations={"answers": {"file": "prompts.jsonl", "tokens": 6, "slices": ["topic"]}},
        calibration={"choices": {"file": "choices.jsonl"}},
        own={
            "mine": {"measure": "./mine.py:measure", "options": {"text": "x"}},
            "size": {"measure": "./mine.py:numbers", "better": {"weights": "min"}},
        },
        price={"per_device_hour": 3.6},
    )


@pytest.fixture(scope="module")
def result(home: Path, run: Path) -> Path:
    return evaluate(run, None, load_evaluation(everything(home / "one", PROMPTS, CHOICES)))


def test_the_loss_is_the_validation_loss_of_training(run: Path, result: Path) -> None:
    record, state = read_evaluation(result), read_state(run)
    held_out = record.evaluators["held_out"]
    assert held_out.values["loss"] == pytest.approx(state.results.val_loss, abs=1e-6)
    assert held_out.values["perplexity"] == pytest.approx(math.exp(held_out.values["loss"]))
    bits = state.bits_per_byte(state.results.val_loss)
    assert held_out.values["bits_per_byte"] == pytest.approx(bits, rel=1e-3)
    by_source = {name: one["loss"] for name, one in held_out.slices["source"].items()}
    assert by_source == pytest.approx(state.results.val_loss_by_source, abs=1e-6)
    assert record.model.step == state.totals.steps
    assert record.model.tokens == state.totals.tokens


def test_slices_add_up_to_the_whole(result: Path) -> None:
    record = read_evaluation(result)
    rows = [row for row in read_examples(result, record) if row.evaluator == "held_out"]
    whole = ratios(row.sums for row in rows)
    assert whole == {name: record.evaluators["held_out"].values[name] for name in whole}
    for kind in ("length", "context"):
        parts = [sums for row in rows for sums in row.parts[kind].values()]
        assert ratios(parts) == pytest.approx(whole)
    assert set(record.evaluators["held_out"].slices["context"]) == {
        "1",
        "2–3",
        "4–7",
        "8–15",
        "16–31",
    }


def test_what_is_checked_of_answers(result: Path) -> None:
    record = read_evaluation(result)
    answers = record.evaluators["answers"]
    rows = {row.id: row for row in read_examples(result, record) if row.evaluator == "answers"}
    assert rows["b"].sums["success"][0] == 0
    assert answers.values["success"] == sum(row.sums["success"][0] for row in rows.values()) / 3
    assert rows["b"].shown["failed"] == {"regex": "no match of ['zzz']"}
    assert rows["c"].shown["failed"] == {"expect": "it did not decline"}
    assert [id_ for id_ in rows if "hallucination_rate" in rows[id_].sums] == ["a"]
    assert answers.sizes["topic"] == {"code": 1, "web": 2}
    assert 0 < answers.values["first_token_p50"] <= answers.values["latency_p50"]
    seconds = sum(row.shown["seconds"] for row in rows.values()) / 3
    assert answers.values["cost_per_1000"] == pytest.approx(1000 * seconds * 3.6 / 3600, rel=1e-3)


def untimed(rows: list[ExampleRow]) -> list[Any]:
    timed = ("seconds", "first_token")
    return [
        row.model_copy(update={"shown": {k: v for k, v in row.shown.items() if k not in timed}})
        for row in rows
    ]


def test_the_order_of_examples_and_the_place_of_the_model_change_nothing(
    home: Path, run: Path, result: Path, tmp_path: Path
) -> None:
    """To the bit: examples in another order, by the exported model."""
    folder = export(run, tmp_path / "model")
    config = load_evaluation(
        everything(tmp_path, PROMPTS[::-1], CHOICES[::-1]),
        [f"splits.held_out.corpus={home / 'corpus'}", "splits.held_out.length=32"],
    )
    other = evaluate(folder, None, config)
    assert other.parent.parent == folder
    first, second = read_evaluation(result), read_evaluation(other)
    assert first.model.fingerprint == second.model.fingerprint
    for name in first.evaluators:
        one, two = first.evaluators[name], second.evaluators[name]
        assert (one.data_hash, one.settings) == (two.data_hash, two.settings)
    assert untimed(read_examples(result, first)) == untimed(read_examples(other, second))
    for name in ("held_out", "choices"):
        assert first.evaluators[name].values == second.evaluators[name].values


def test_own_metrics_are_rows_or_numbers(result: Path) -> None:
    record = read_evaluation(result)
    assert record.evaluators["mine"].values == {"half": 0.75}
    assert record.evaluators["mine"].slices == {"kind": {"a": {"half": 0.5}, "b": {"half": 1.0}}}
    assert record.evaluators["size"].values["weights"] == record.model.parameters
    assert record.evaluators["size"].better == {"weights": "min"}


def test_an_earlier_step_is_another_model(run: Path, result: Path, tmp_path: Path) -> None:
    config = load_evaluation(evaluation(tmp_path, splits={"held_out": {"tokens": 320}}))
    with pytest.raises(RunError, match=r"no such checkpoint; there are those of steps 6, 12"):
        evaluate(run, 5, config)
    earlier = read_evaluation(evaluate(run, 6, config))
    assert earlier.model.step == 6
    assert earlier.model.fingerprint != read_evaluation(result).model.fingerprint
    assert {one.model.step for one in evaluations_of(run).values()} == {6, 12}


def test_the_test_split_is_looked_at_once(run: Path, tmp_path: Path) -> None:
    path = evaluation(tmp_path, name="final", splits={"end": {"split": "test"}})
    config, said = load_evaluation(path), list[str]()
    with pytest.raises(ConfigError, match=r"splits\.end\.split = 'test': .* once with --final"):
        evaluate(run, None, config)
    assert not read_log(run).count("read the test split")
    first = read_evaluation(evaluate(run, None, config, final=True, tell=said.append))
    assert (first.final, first.test_split_before) == (True, 0)
    assert not [line for line in said if "no first look" in line]
    again = read_evaluation(evaluate(run, None, config, final=True, tell=said.append))
    assert again.test_split_before == 1
    assert [line for line in said if "1 time before: this is no first look" in line]
    assert read_log(run).count("read the test split") == 2
    with pytest.raises(ConfigError, match="--final is for an evaluation that reads a test split"):
        evaluate(run, None, load_evaluation(evaluation(tmp_path, splits={"v": {}})), final=True)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({}, "nothing to measure: give one of splits, generations, calibration, tasks, own"),
        ({"splits": {"a b": {}}}, "'a b': an evaluator's name has letters"),
        (
            {"generations": {"x": {"file": "no.jsonl"}}},
            r"eval.yaml:3: .* = 'no.jsonl': no such file",
        ),
        ({"own": {"x": {"measure": "mine.py"}}}, "name a function in a Python file"),
        ({"own": {"x": {"measure": "./no.py:measure"}}}, r"no.py can't be read"),
        ({"splits": {"x": {"corpus": "nowhere"}}}, "nowhere.*no prepared corpus here"),
        ({"splits": {"x": {"length": 4096}}}, r"(?s)splits.x.*4096|fewer than one sample"),
    ],
)
def test_mistakes_are_named(run: Path, tmp_path: Path, sections: Any, said: str) -> None:
    with pytest.raises(MantaError, match=said):
        evaluate(run, None, load_evaluation(evaluation(tmp_path, **sections)))


def test_an_own_metric_that_fails_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    config = evaluation(tmp_path, own={"mine": {"measure": "./mine.py:broken"}})
    with pytest.raises(ConfigError, match=r"own.mine.measure.* its 'weights' is 'many'"):
        evaluate(run, None, load_evaluation(config))


def test_the_command_prints_and_writes_a_page(run: Path, home: Path, tmp_path: Path) -> None:
    path = everything(tmp_path, PROMPTS, CHOICES)
    out = tmp_path / "out"
    done = CliRunner().invoke(
        cli.app, ["evaluate", str(run), str(path), "name=again", "--output", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "success" in done.stdout
    page = (out / "evaluation.html").read_text()
    assert "no match of" in page
    assert json.loads((out / "evaluation.json").read_text())["name"] == "again"


def test_a_damaged_result_is_not_believed(result: Path, tmp_path: Path) -> None:
    record = read_evaluation(result)
    for file in result.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    examples = tmp_path / record.examples_file
    examples.write_bytes(examples.read_bytes()[:-1])
    with pytest.raises(RunError, match="its checksum is not the one"):
        read_examples(tmp_path, record)
    text = (tmp_path / "evaluation.json").read_text()
    (tmp_path / "evaluation.json").write_text(text.replace('"quality"', '"better"'))
    with pytest.raises(RunError, match="seal doesn't match"):
        read_evaluation(tmp_path)

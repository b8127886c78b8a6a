"""Files of records: what is wrong is named by its line, and the order of lines is no matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluated_runs import lines

from manta.config.errors import RunError
from manta.config.evaluation import CalibrationEvaluation, EvaluationConfig, GenerationsEvaluation
from manta.evaluate.choices_and_labels import ChoicesAndLabels
from manta.evaluate.generated_answers import GeneratedAnswers
from manta.evaluate.record_file import read_records
from manta.evaluate.ticking import ticking

CONFIG = EvaluationConfig(name="x", splits={"y": {}})
KNOWN = ("prompt", "contains")


def test_the_order_of_lines_is_no_matter(tmp_path: Path) -> None:
    records = [{"prompt": f"{n}", "contains": "x"} for n in range(5)] + [{"id": 7, "prompt": "y"}]
    one = read_records(lines(tmp_path / "a.jsonl", records), KNOWN, ())
    two = read_records(lines(tmp_path / "b.jsonl", records[::-1]), KNOWN, ())
    assert one.digest == two.digest
    assert [r.id for r in one.records] == [r.id for r in two.records]
    changed = [*records[:-1], {"id": 7, "prompt": "z"}]
    assert read_records(lines(tmp_path / "c.jsonl", changed), KNOWN, ()).digest != one.digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no records in it"),
        ("{", "line 1: not valid JSON"),
        ("[]", "line 1: not a JSON object"),
        (
            '\n{"prompt": "a", "contain": "b"}',
            "line 2: unknown key 'contain'; did you mean 'contains'",
        ),
        ('{"prompt": "a", "zzz": 1}', "unknown key 'zzz'; known are .* in 'slices'"),
        ('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}', "line 2: '1' is the id of line 1"),
        ('{"prompt": "a"}\n{"prompt": "a"}', "line 2: it is the same as line 1"),
        ('{"id": [], "prompt": "a"}', r"'id' must be a text or a whole number, not \[\]"),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(RunError, match=said):
        read_records(path, KNOWN, ())


def test_slices_are_keys_that_are_there(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": "a", "topic": "x"}, {"prompt": "b"}])
    found = read_records(path, KNOWN, ("topic",))
    assert sorted(record.slices(("topic",))["topic"] for record in found.records) == ["x", "–"]
    with pytest.raises(RunError, match="no record has the key 'level'"):
        read_records(path, (*KNOWN, "topic"), ("level",))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "give either 'prompt', a text, or 'messages'"),
        ({"prompt": "a", "messages": []}, "give either"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last one not the assistant's"),
        ({"prompt": "a", "expect": "no"}, "'expect' must be one of answer, refusal"),
        ({"prompt": "a", "context": 3}, "'context' must be a text, not 3"),
    ],
)
def test_prompts(tmp_path: Path, record: dict[str, Any], said: str) -> None:
    path = lines(tmp_path / "a.jsonl", [record])
    with pytest.raises(RunError, match=said):
        GeneratedAnswers("x", GenerationsEvaluation(file=str(path)), None, CONFIG)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "a", "choices": ["b"], "answer": 0}, "two or more 'choices'"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": 2}, "its number from 0 to 1"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": "d"}, "one of the choices"),
        ({"prompt": "a", "choices": ["b", ""], "answer": 0}, "a choice is empty"),
        ({"text": "a"}, "or 'text' and 'label'"),
    ],
)
def test_choices_and_labels(tmp_path: Path, record: dict[str, Any], said: str) -> None:
    path = lines(tmp_path / "a.jsonl", [record])
    with pytest.raises(RunError, match=said):
        ChoicesAndLabels("x", CalibrationEvaluation(file=str(path)))


def test_the_digest_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    one, two = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one.write_text(json.dumps({"prompt": "a", "contains": "b"}))
    two.write_text(json.dumps({"contains": "b", "prompt": "a"}))
    assert read_records(one, KNOWN, ()).digest == read_records(two, KNOWN, ()).digest


def test_a_long_evaluation_says_how_far_it_is() -> None:
    now, said = [0.0], list[str]()
    for item in ticking(range(100), "answers", said.append, lambda: now[0]):
        now[0] += 1.0 if item < 90 else 0.1
    assert said == [
        "answers: 15 of 100, about 1:25 left",
        "answers: 30 of 100, about 1:10 left",
        "answers: 45 of 100, about 0:55 left",
        "answers: 60 of 100, about 0:40 left",
        "answers: 75 of 100, about 0:25 left",
        "answers: 90 of 100, about 0:10 left",
    ]

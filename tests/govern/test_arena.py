"""Blind pairs: who answers where is not said, choices are kept, and become preferences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluated_runs import lines, text_corpus, trained_run
from inline_prepare import without_ray
from typer.testing import CliRunner

from manta import cli
from manta.config import CorpusConfig
from manta.config.errors import ConfigError, RunError
from manta.corpus.prepare import prepare
from manta.govern.arena import AnswerSettings, Arena, ArenaModel

TEMPLATE = Path(__file__).parents[2] / "jobs/chat/template.jinja"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arena")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        return trained_run(folder, text_corpus(folder))


def test_choices_are_kept_and_become_a_corpus(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = lines(tmp_path / "p.jsonl", [{"prompt": f"web {n} fox"} for n in range(12)])
    home = tmp_path / "arena"
    words = ["arena", f"{run}@6", str(run), str(prompts), "--output", str(home), "--tokens", "8"]
    words += ["--temperature", "1"]
    first = CliRunner().invoke(cli.app, words, input="1\nx\n2\n=\nq\n")
    assert first.exit_code == 0, first.output
    assert first.stdout.count("── answer 1 ──") == 4  # the pair of the wrong key is asked once more
    kept = [json.loads(line) for line in (home / "choices.jsonl").read_text().splitlines()]
    assert [one["choice"] for one in kept] == ["1", "2", "="]
    assert "2 pairs for manta prepare" in first.stdout
    answers = (home / "answers.jsonl").read_bytes()

    page = tmp_path / "arena.html"
    second = CliRunner().invoke(cli.app, [*words, "--page", str(page)])
    assert second.exit_code == 0, second.output
    assert (home / "answers.jsonl").read_bytes() == answers  # nothing was asked again
    assert str(run) not in page.read_text()
    saved = lines(
        tmp_path / "choices.jsonl",
        [{"id": one["id"], "choice": "1"} for one in map(json.loads, answers.splitlines())],
    )
    third = CliRunner().invoke(cli.app, [*words, "--choices", str(saved)])
    assert third.exit_code == 0, third.output
    assert "choices taken" in third.stdout
    assert f"{run}@6 is chosen over {run} in " in third.stdout

    without_ray(monkeypatch)
    corpus = {
        "out": str(tmp_path / "pairs"),
        "sources": [{"name": "arena", "format": "jsonl", "paths": [str(home / "pairs.jsonl")]}],
        "tokenizer": {"path": str(run.parent / "corpus/tokenizer.json")},
        "chat": {"records": "pairs", "length": 128, "template": str(TEMPLATE)},
        "split": {"train": 1, "validation": 0, "test": 0},
    }
    manifest = prepare(CorpusConfig.model_validate(corpus), progress=False)
    count = len((home / "pairs.jsonl").read_text().splitlines())
    assert count >= 10
    assert manifest.counts["train"]["arena"].documents == count


def made(folder: Path, count: int, names: str = "ab") -> Arena:
    prompts = lines(folder / "p.jsonl", [{"id": n, "prompt": f"p{n}"} for n in range(count)])
    models = [ArenaModel(name, Path(name), None) for name in names]
    return Arena(folder / "arena", models, prompts, AnswerSettings())


def test_which_answer_stands_first_is_by_the_prompt_alone(tmp_path: Path) -> None:
    arena, turned = made(tmp_path, 400), made(tmp_path, 400, "ba")
    first = [arena._two(record)[0] for record in arena.records]
    assert 150 < first.count("a") < 250
    assert [turned._two(record) for record in turned.records] != [
        arena._two(record) for record in arena.records
    ]
    three = made(tmp_path, 400, "abc")
    assert (
        len({frozenset(three._two(record)) for record in three.records}) == 3
    )  # of three models each two meet


def test_standings_count_what_was_chosen_whatever_stood_first(tmp_path: Path) -> None:
    arena = made(tmp_path, 60)
    found = {("a", r.id): f"a{r.id}" for r in arena.records}
    found |= {("b", r.id): f"b{r.id}" for r in arena.records}
    found["a", "7"] = found["b", "7"] = "the same"
    pairs = [arena._pair(record, found) for record in arena.records]
    assert arena.standings(pairs)[0].ties == 1  # without a choice there is the one that is the same
    for pair in pairs:  # a is always chosen
        arena.choose(pair.record.id, "1" if pair.models[0] == "a" else "2")
    (standing,) = arena.standings(pairs)
    assert (standing.wins, standing.losses, standing.ties) == (59, 0, 1)
    assert standing.rate.verdict == "better"
    assert arena.write_pairs(pairs) == 59
    rows = [json.loads(line) for line in (arena.folder / "pairs.jsonl").read_text().splitlines()]
    assert all(row["chosen"][0] == "a" and row["rejected"][0] == "b" for row in rows)
    assert {row["prompt"] for row in rows} == {f"p{n}" for n in range(60) if n != 7}


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two or more different models"):
        made(tmp_path, 3, "aa")
    arena = made(tmp_path, 3)
    for row, said in (
        ({"id": "9", "choice": "1"}, "'9' is the id of no prompt here"),
        ({"id": "1", "choice": "3"}, "line 1: no choice"),
    ):
        with pytest.raises(RunError, match=said):
            arena.take(lines(tmp_path / "c.jsonl", [row]))

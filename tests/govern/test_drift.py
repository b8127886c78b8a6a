"""Drift is found where data changed and not where it didn't; the exit code says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluated_runs import lines, text_corpus, trained_run
from inline_prepare import without_ray
from typer.testing import CliRunner

from manta import cli
from manta.config.drift import load_drift
from manta.config.errors import ConfigError, MantaError
from manta.govern.drift_report import look_for_drift


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drifting")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        return trained_run(folder, text_corpus(folder))


def all_texts(run: Path) -> list[dict[str, Any]]:
    """The documents that the run's corpus was made of."""
    files = [run.parent / f"{source}.jsonl" for source in ("web", "code")]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def looked(*words: object) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(cli.app, ["drift", *map(str, words), "--json", "permutations=199"])
    return done.exit_code, json.loads(done.stdout)


def test_what_changed_is_found_and_what_did_not_is_not(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "drift.html"
    known = all_texts(run)
    same = looked(lines(tmp_path / "same.jsonl", known), "--against", run)
    changed = [{"text": 2 * f" {one['text']}".upper()} for one in known[::2]]
    other = looked(
        *(lines(tmp_path / "new.jsonl", changed), "--against", run, "--output", page),
    )
    assert (same[0], same[1]["drifted"]) == (0, False)
    assert (other[0], other[1]["drifted"]) == (1, True)
    names = {one["name"] for one in other[1]["measures"] if one["verdict"] == "drift"}
    assert names == {
        *("lengths_psi", "lengths_ks", "tokens_psi"),
        *("loss_rise", "loss_ks", "embedding_mmd"),
    }
    assert "Sources are not compared" in other[1]["remarks"][0]
    shares = [one["new_share"] for one in other[1]["slices"] if one["kind"] == "length"]
    assert sum(shares) == pytest.approx(1)
    assert any(one["new_loss"] for one in other[1]["slices"])
    assert other[1]["tokens"]
    assert "Documents by length" in page.read_text()
    assert f"{run}" in page.read_text()


def test_a_corpus_is_compared_with_itself_by_its_sources(run: Path) -> None:
    corpus = run.parent / "corpus"
    report = look_for_drift(str(corpus), str(corpus), load_drift(None, ["permutations=199"]))
    found = {one.name: one for one in report.measures}
    assert set(found) == {"lengths_psi", "lengths_ks", "tokens_psi", "sources_psi"}
    assert not report.drifted
    assert {one.name for one in report.slices if one.kind == "source"} == {"web", "code"}
    again = look_for_drift(str(corpus), str(corpus), load_drift(None, ["permutations=199"]))
    assert again.measures == report.measures


def test_what_can_not_be_compared_says_why(run: Path, tmp_path: Path) -> None:
    few = lines(tmp_path / "few.jsonl", [{"text": "a fox"}, {"text": "a dog"}])
    for new, said in (
        (few, "fewer than 20 say nothing"),
        (tmp_path / "none", "neither a prepared corpus nor a file"),
    ):
        with pytest.raises(MantaError, match=said):
            look_for_drift(str(new), str(run), load_drift(None))
    with pytest.raises(ConfigError, match=r"limits\.lengths_ps\b.*did you mean"):
        load_drift(None, ["limits.lengths_ps=1"])
    path = tmp_path / "drift.yaml"
    path.write_text("language_model: base\n")
    assert load_drift(path).language_model == str(tmp_path / "base")

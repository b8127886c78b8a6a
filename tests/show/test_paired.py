"""Evaluations compared example by example: intervals that hold, and noise that is called so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_evaluations import example, write_made
from typer.testing import CliRunner

from manta import cli
from manta.config.errors import RunError
from manta.record.evaluation_record import find_evaluation
from manta.show.evaluations import paired_bootstrap
from manta.show.evaluations.paired_bootstrap import Paired, differences
from manta.show.evaluations.paired_comparison import compare_evaluations


def paired(first: np.ndarray, second: np.ndarray, better: str | None = "max") -> Paired:
    ones = np.ones(len(first))
    return Paired(np.stack([first, ones], 1), np.stack([second, ones], 1), better)


def scores(count: int, shift: float = 0.0, seed: int = 0) -> Paired:
    """Two models that have most of their noise in common."""
    random = np.random.default_rng(seed)
    hard = random.normal(size=count)
    first, second = (hard + 0.3 * random.normal(size=count) for _ in range(2))
    return paired(first, second + shift)


def test_an_interval_is_that_of_the_normal_law_where_that_holds() -> None:
    one = scores(3000, shift=0.1)
    (found,) = differences([one])
    each = one.second[:, 0] - one.first[:, 0]
    half = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    assert found.low is not None
    assert found.high is not None
    assert (found.low, found.high) == pytest.approx(
        (each.mean() - half, each.mean() + half), abs=0.05 * half
    )
    assert found.verdict == "better"


def test_an_interval_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    one = scores(200)
    (found,) = differences([one])
    expected = stats.bootstrap(
        (one.first[:, 0], one.second[:, 0]),
        lambda a, b, axis: b.mean(axis) - a.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.low == pytest.approx(expected.low, abs=2e-3)
    assert found.high == pytest.approx(expected.high, abs=2e-3)


def test_models_that_do_not_differ_are_told_apart_one_time_in_twenty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paired_bootstrap, "DRAWS", 1000)
    told_apart = [differences([scores(80, seed=seed)])[0].verdict for seed in range(200)]
    assert 0.01 <= np.mean([verdict != "within noise" for verdict in told_apart]) <= 0.1


def test_with_many_metrics_no_more_are_told_apart_by_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paired_bootstrap, "DRAWS", 4000)
    any_told = 0
    for seed in range(40):
        found = differences([scores(80, seed=1000 * seed + k) for k in range(8)])
        any_told += any(one.verdict != "within noise" for one in found)
    assert any_told <= 6  # uncorrected, about 13 of the 40


def test_exchanged_models_have_the_same_interval_the_other_way_round() -> None:
    one = scores(50, shift=0.05)
    (there,) = differences([one])
    (back,) = differences([Paired(one.second, one.first, "max")])
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))  # type: ignore[operator]
    assert (back.won, back.lost) == (there.lost, there.won)
    assert back.verdict == {"better": "worse", "worse": "better"}.get(there.verdict, there.verdict)


def test_few_examples_say_nothing_and_the_same_are_the_same() -> None:
    few = paired(np.zeros(9), np.ones(9))
    same = paired(np.arange(20.0), np.arange(20.0))
    all_won = paired(np.zeros(20), np.ones(20))
    found = [differences([one])[0] for one in (few, same, all_won)]
    assert [one.verdict for one in found] == ["too few examples", "the same", "better"]
    assert found[0].low is None
    assert (found[2].won, found[2].lost) == (20, 0)


def test_examples_without_the_metric_do_not_count() -> None:
    sums = np.array([[1.0, 1.0], [0.0, 0.0]] * 20)
    other = np.array([[0.0, 1.0], [0.0, 0.0]] * 20)
    (found,) = differences([Paired(sums, other, "max")])
    assert (found.first, found.second, found.examples) == (1, 0, 20)
    assert found.verdict == "worse"


def model(folder: Path, name: str, right: int, **changes: object) -> Path:
    """A model that answers the first of 60 prompts well; those of topic a are every third."""
    rows = [
        example(f"{n:02d}", float(n < right), slices={"topic": "abb"[n % 3]}) for n in range(60)
    ]
    write_made(folder / name, rows, **changes)  # type: ignore[arg-type]
    return folder / name


def test_wins_and_losses_by_slice_and_what_changed(tmp_path: Path) -> None:
    first, second = model(tmp_path, "old", 30), model(tmp_path, "new", 42)
    (found,) = compare_evaluations([find_evaluation(p) for p in (first, second)])
    (answers,) = found.evaluators
    success = answers.paired["success"]
    assert (success.won, success.lost, success.verdict) == (12, 0, "better")
    assert success.change == pytest.approx(0.2)
    by_slice = {slice_: one.won for (slice_, _), one in answers.slices.items()}
    assert by_slice == {("topic", "a"): 4, ("topic", "b"): 8}
    assert [a.id for a, _ in answers.changed] == [f"{n:02d}" for n in range(30, 42)]
    assert (found.tests, found.remarks) == (1, ())


def test_more_models_are_corrected_for(tmp_path: Path) -> None:
    places = [find_evaluation(model(tmp_path, f"m{right}", right)) for right in (30, 36, 31)]
    one, many = compare_evaluations(places[:2]), compare_evaluations(places)
    narrow, wide = (found[0].evaluators[0].paired["success"] for found in (one, many))
    assert narrow.low is not None
    assert wide.low is not None
    assert wide.low < narrow.low
    assert many[1].evaluators[0].paired["success"].verdict == "within noise"


def test_what_can_not_be_compared_is_said(tmp_path: Path) -> None:
    first = find_evaluation(model(tmp_path, "old", 30))
    other = find_evaluation(model(tmp_path, "new", 42, data_hash="1" * 16))
    with pytest.raises(RunError, match="answers: it read other data"):
        compare_evaluations([first, other])
    with pytest.raises(RunError, match=r"called other \(it has others: quality\)"):
        find_evaluation(tmp_path / "old", "other")


def test_the_command_recognises_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = model(tmp_path, "old", 30), model(tmp_path, "new", 42)
    done = CliRunner().invoke(
        cli.app, ["compare", str(first), str(second), "--evaluation", "quality"]
    )
    assert done.exit_code == 0, done.output
    assert "new compared with old" in done.stdout
    assert "answers/success" in done.stdout
    page = (tmp_path / "compare.html").read_text()
    assert "12 examples whose success differs" in page
    assert "What is 35?" in page
    done = CliRunner().invoke(cli.app, ["compare", str(find_evaluation(first))])
    assert done.exit_code == 1
    assert "two or more models" in str(done.exception)

"""Ranking what is compared, and saying what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_sweep import HORIZON, Loss, Made, base, ends_at, trial, write_run, write_sweep

from manta.show.compare.comparison import Comparison
from manta.show.compare.ranking import Ranking, rank
from manta.show.compare.reading import load_comparison
from manta.show.compare.verdict import sentences


def made(folder: Path, losses: dict[str, tuple[Made, float]], **keys: Any) -> Comparison:
    write_sweep(
        folder, [one for one, _ in losses.values()], lambda t: ends_at(losses[t.name][1]), **keys
    )
    return load_comparison([folder])


def by_name(*items: tuple[Made, float]) -> dict[str, tuple[Made, float]]:
    return {one.name: (one, value) for one, value in items}


def said(comparison: Comparison, ranking: Ranking) -> str:
    return "\n".join(sentence.text for sentence in sentences(comparison, ranking))


def test_best_first_and_beyond_noise(tmp_path: Path) -> None:
    comparison = made(
        tmp_path / "s",
        by_name(
            (trial("b1", 2e-3, 1), 3.50),
            (trial("b2", 2e-3, 2), 3.52),
            (trial("a1", 1e-3, 1), 3.00),
            (trial("a2", 1e-3, 2), 3.02),
        ),
    )
    ranking = rank(comparison)
    assert [c.label for c in ranking.ranked] == ["lr.peak 0.001", "lr.peak 0.002"]
    assert ranking.main is not None
    best, second = ranking.main.entries
    assert ranking.main.kind == "end"
    # val_loss is 0.02 above the loss; variance 2e-4 with two degrees of freedom.
    assert best.estimate.mean == pytest.approx(3.03)
    assert best.estimate.half == pytest.approx(4.30265 * 1e-2, rel=1e-4)
    assert second.behind is not None
    assert second.behind.gap == pytest.approx(0.5)
    assert second.behind.half == pytest.approx(4.30265 * 2e-4**0.5, rel=1e-4)
    text = said(comparison, ranking)
    assert "Best of 2: #1 lr.peak 0.001, val_loss 3.0300 ± 0.0430 (mean of 2 seeds)." in text
    assert "At the end: #1 beats #2 (lr.peak 0.002) by 0.5000 ± 0.0608: more than seed" in text


def test_a_difference_within_seed_noise_is_called_that(tmp_path: Path) -> None:
    comparison = made(
        tmp_path / "s",
        by_name(
            (trial("a1", 1e-3, 1), 3.00),
            (trial("a2", 1e-3, 2), 3.10),
            (trial("b", 2e-3, 1), 3.06),
            (trial("c", 3e-3, 1), 3.07),
            (trial("d", 4e-3, 1), 9.00),
        ),
    )
    text = said(comparison, rank(comparison))
    assert "by only 0.0100 ± 1.1004: the difference is within seed noise, as it is to #3." in text


def test_without_seeds_it_says_so(tmp_path: Path) -> None:
    comparison = made(tmp_path / "s", by_name((trial("a", 1e-3), 3.0), (trial("b", 2e-3), 4.0)))
    text = said(comparison, rank(comparison))
    assert "At the end: #1 leads #2 (lr.peak 0.002) by 1.0000; seed noise unknown." in text
    assert "No configuration has two seeds" in text
    assert "more than seed noise" not in text


def test_a_winner_that_lost_seeds_is_no_clean_winner(tmp_path: Path) -> None:
    comparison = made(
        tmp_path / "s",
        by_name(
            (trial("a1", 1e-3, 1), 3.00),
            (trial("a2", 1e-3, 2, status="diverged", until=HORIZON // 2), 3.00),
            (trial("b", 2e-3, 1), 3.10),
        ),
    )
    assert "val_loss 3.0200 (one seed; 1 more diverged)." in said(comparison, rank(comparison))


def test_the_other_way_round_for_a_metric_that_should_be_high(tmp_path: Path) -> None:
    comparison = made(
        tmp_path / "s", by_name((trial("a", 1e-3), 3.0), (trial("b", 2e-3), 4.0)), mode="max"
    )
    ranking = rank(comparison)
    assert ranking.ranked[0].label == "lr.peak 0.002"
    assert ranking.main is not None
    assert ranking.main.entries[1].behind is not None
    assert ranking.main.entries[1].behind.gap == pytest.approx(1.0)
    assert rank(load_comparison([tmp_path / "s"], "loss")).ranked[0].label == "lr.peak 0.001"


def test_matched_tokens_and_compute_may_name_another_winner(tmp_path: Path) -> None:
    """A slow run that is best token for token loses at equal device time."""

    def line(end: float) -> Loss:
        return lambda tokens: end + 2.0 * (1 - tokens / HORIZON)

    half = {"schedule": {"horizon": HORIZON // 2}}
    write_run(base(tmp_path, "slow"), line(3.0), speed=200_000)
    write_run(base(tmp_path, "fast", optimizer={"weight_decay": 0.2}), line(3.1), speed=400_000)
    config = base(tmp_path, "short", **half, optimizer={"weight_decay": 0.3})
    write_run(config, line(3.4), speed=400_000)
    comparison = load_comparison([tmp_path / name for name in ("slow", "fast", "short")])
    ranking = rank(comparison)
    tokens, compute = ranking.view("tokens"), ranking.view("compute")
    assert ranking.ranked[0].label == "slow"
    assert tokens is not None
    assert compute is not None
    assert tokens.at == HORIZON // 2
    assert [e.configuration.label for e in tokens.entries] == ["slow", "fast", "short"]
    assert [e.values[0] for e in tokens.entries] == pytest.approx([4.02, 4.12, 4.42])
    # Half the tokens at 400,000 tokens/s on two devices; by then the slow one did a quarter.
    assert compute.at == pytest.approx(HORIZON / 2 / 400_000 * 2)
    assert [e.configuration.label for e in compute.entries] == ["fast", "short", "slow"]
    assert [e.values[0] for e in compute.entries] == pytest.approx([4.12, 4.42, 4.52])
    text = said(comparison, ranking)
    assert "At equal tokens (1.00B): #1 leads #2 (fast) by 0.1000" in text
    assert "At equal compute (1.39 device-hours): #2 (fast) leads #3 (short) by 0.3000" in text
    assert "They were not trained equally long: 1.00B to 2.00B tokens." in text


def test_what_did_not_finish_comes_after_what_did(tmp_path: Path) -> None:
    half = HORIZON // 2
    comparison = made(
        tmp_path / "s",
        by_name(
            (trial("waits", 6e-3, status="waiting", until=0), 0.0),
            (trial("broke", 5e-3, status="diverged", until=half), 1.0),
            (trial("paused", 4e-3, status="paused", until=half), 2.0),
            (trial("worse", 2e-3), 4.0),
            (trial("better", 1e-3), 3.0),
        ),
    )
    ranking = rank(comparison)
    assert [c.trials[0].name for c in ranking.ranked] == [
        "better",
        "worse",
        "paused",
        "broke",
        "waits",
    ]
    tokens = ranking.view("tokens")
    assert tokens is not None
    assert tokens.at == half
    assert [e.configuration.trials[0].name for e in tokens.entries] == ["paused", "better", "worse"]
    assert "Of 5 trials 2 finished, 1 waiting, 1 diverged, 1 paused." in said(comparison, ranking)


def test_runs_that_still_train_are_compared_where_all_have_been(tmp_path: Path) -> None:
    for name, until, value in (("a", HORIZON // 4, 3.0), ("b", HORIZON // 2, 3.2)):
        config = base(tmp_path, name, optimizer={"weight_decay": value})
        write_run(config, ends_at(value), until=until, status="interrupted")
    comparison = load_comparison([tmp_path / "a", tmp_path / "b"])
    ranking = rank(comparison)
    assert ranking.main is not None
    assert (ranking.main.kind, ranking.main.at) == ("tokens", HORIZON // 4)
    assert ranking.ranked[0].label == "a"
    assert "Best of 2: #1 a, val_loss 4.5200 at 500M tokens (one seed)." in said(
        comparison, ranking
    )


def test_cost_counts_what_was_shared_once(tmp_path: Path) -> None:
    comparison = made(
        tmp_path / "s",
        by_name(
            (trial("a", 1e-3), 3.0),
            (trial("b", 2e-3, parent="a", fork_tokens=HORIZON // 2, fork_step=50), 3.1),
        ),
    )
    text = said(comparison, rank(comparison))
    # Steps: one and a half times 10,000 device-seconds. Beside them two starts and 150
    # evaluations, of two devices, all at 2.50 an hour.
    assert "In all 4.37 device-hours were used, at a cost of 10.92; 4.17 device-hours of it" in text
    assert "3.00B tokens instead of 4.00B, 1.3 times fewer." in text


def test_importance_tells_what_mattered(sweep: Path) -> None:
    ranking = rank(load_comparison([sweep]))
    shares = {one.key: one.share for one in ranking.importances}
    assert max(shares, key=lambda key: shares[key]) == "schedule.lr.decay"
    assert shares["schedule.batch"] < 0.2
    assert ranking.noise_share is not None
    assert ranking.noise_share < 0.3


def test_importance_rests_on_the_comparison_with_the_most_trials(tmp_path: Path) -> None:
    paused = {"status": "paused", "until": HORIZON // 2}
    losses = by_name(
        *((trial(f"p{n}", n * 1e-3, **paused), 3.0 + n) for n in range(3, 9)),
        (trial("a", 1e-3), 3.0),
        (trial("b", 2e-3), 4.0),
    )
    ranking = rank(made(tmp_path / "s", losses))
    assert ranking.main is not None
    assert ranking.main.kind == "end"
    assert ranking.importance_view is not None
    assert (ranking.importance_view.kind, len(ranking.importance_view.entries)) == ("tokens", 8)


def test_what_the_end_says_is_not_said_again(sweep: Path) -> None:
    """All that finished have equal tokens: comparing them at equal tokens adds nothing."""
    views = [(view.kind, view.finished) for view in rank(load_comparison([sweep])).matched]
    assert views == [("tokens", False), ("compute", False), ("compute", True)]

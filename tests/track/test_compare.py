"""Reading what is compared, ranking it, and saying so in the terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_sweep import (
    HORIZON,
    Loss,
    Made,
    base,
    decay_fan,
    manifest,
    plausible_loss,
    write_run,
    write_sweep,
)

from manta.config.errors import RunError
from manta.track.compare import Comparison, load_comparison
from manta.track.ranking import Ranking, rank
from manta.track.verdict import sentences


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "fan"
    return write_sweep(folder, decay_fan(), plausible_loss, question="How long a decay?")


def ends_at(value: float) -> Loss:
    """A straight line down to `value` at the horizon."""
    return lambda tokens: value + 2.0 * (1 - tokens / HORIZON)


def trial(name: str, peak: float, seed: int = 0, **fields: Any) -> Made:
    return Made(name, name, {"schedule.lr.peak": peak}, seed, **fields)


def made(folder: Path, losses: dict[str, tuple[Made, float]], **keys: Any) -> Comparison:
    write_sweep(
        folder, [one for one, _ in losses.values()], lambda t: ends_at(losses[t.name][1]), **keys
    )
    return load_comparison([folder])


def by_name(*items: tuple[Made, float]) -> dict[str, tuple[Made, float]]:
    return {one.name: (one, value) for one, value in items}


def said(comparison: Comparison, ranking: Ranking) -> str:
    return "\n".join(sentence.text for sentence in sentences(comparison, ranking))


# Reading.


def test_trials_of_a_sweep_are_grouped_by_all_but_the_seed(sweep: Path) -> None:
    comparison = load_comparison([sweep])
    assert len(comparison.trials) == 24
    assert len(comparison.configurations) == 12
    assert comparison.keys == ("schedule.lr.peak", "schedule.lr.decay", "schedule.batch")
    assert all([t.seed for t in c.trials] == [1, 2] for c in comparison.configurations)
    assert comparison.configurations[0].label == "flat batch, decay 10 %, peak 0.001"
    assert comparison.warnings == ()


def test_own_and_shared_tokens_time_and_value(sweep: Path) -> None:
    comparison = load_comparison([sweep])
    (forked,) = (t for t in comparison.trials if t.name == "flat-40-0.001-s1")
    assert forked.parent == "flat-10-0.001-s1"
    assert forked.shared_tokens == forked.fork_tokens == HORIZON * 6 // 10
    assert forked.own_tokens == HORIZON * 4 // 10
    assert forked.device_seconds == pytest.approx(HORIZON / 400_000 * 2)
    assert forked.own_device_seconds == pytest.approx(HORIZON / 400_000 * 2 * 0.4)
    rows = [json.loads(line) for line in (sweep / forked.name / "metrics.jsonl").open()]
    assert forked.value == [row["val_loss"] for row in rows if "val_loss" in row][-1]


def test_params_that_no_two_trials_differ_in_are_left_to_the_config(tmp_path: Path) -> None:
    trials = [trial("a", 1e-3), trial("b", 2e-3)]
    for one in trials:
        one.params["train.clip_norm"] = 0.5
    write_sweep(tmp_path / "s", trials, lambda _: ends_at(3.0))
    comparison = load_comparison([tmp_path / "s"])
    assert comparison.keys == ("schedule.lr.peak",)
    assert "peak" not in comparison.shared
    assert "warmup: 2%" in comparison.shared
    assert [c.label for c in comparison.configurations] == ["lr.peak 0.001", "lr.peak 0.002"]


def test_runs_differ_in_config_but_not_in_names_seeds_or_w_and_b(tmp_path: Path) -> None:
    write_run(base(tmp_path, "a", run={"seed": 1}, wandb={"project": "x"}), ends_at(3.0))
    write_run(base(tmp_path, "b", run={"seed": 2}), ends_at(3.1))
    write_run(base(tmp_path, "c", optimizer={"weight_decay": 0.2}), ends_at(3.2))
    comparison = load_comparison([tmp_path / name for name in "abc"])
    assert comparison.keys == ("optimizer.weight_decay",)
    assert [len(c.trials) for c in comparison.configurations] == [2, 1]
    assert [t.seed for t in comparison.trials] == [1, 2, 0]
    assert comparison.configurations[1].label == "c"


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder, wd in (("x", 0.1), ("y", 0.2)):
        config = base(tmp_path / folder, "same", optimizer={"weight_decay": wd})
        write_run(config, ends_at(3.0 + wd))
    x, y = tmp_path / "x" / "same", tmp_path / "y" / "same"
    comparison = load_comparison([x, y, x])
    assert [t.name for t in comparison.trials] == [str(x), str(y)]
    assert [t.params["optimizer.weight_decay"] for t in comparison.trials] == [0.1, 0.2]


def test_a_schedule_of_another_form_is_one_difference(tmp_path: Path) -> None:
    write_run(base(tmp_path, "a"), ends_at(3.0))
    write_run(base(tmp_path, "b", schedule={"lr": 1e-3}), ends_at(3.0))
    comparison = load_comparison([tmp_path / "a", tmp_path / "b"])
    assert comparison.keys == ("schedule.lr",)
    assert comparison.told(comparison.trials[1].params) == "lr 0.001"


def test_other_corpora_are_a_warning(tmp_path: Path) -> None:
    write_run(base(tmp_path, "a"), ends_at(3.0))
    write_run(base(tmp_path, "b"), ends_at(3.0), of=manifest(301))
    (warning, *_) = load_comparison([tmp_path / "a", tmp_path / "b"]).warnings
    assert "not comparable: trained on different corpora" in warning
    assert manifest(301).fingerprint[:12] in warning


def test_repeats_of_one_run_are_not_seeds(tmp_path: Path) -> None:
    for name, value in (("a", 3.0), ("again", 3.0), ("b", 3.1)):
        wd = 0.2 if name == "b" else 0.1
        write_run(base(tmp_path, name, optimizer={"weight_decay": wd}), ends_at(value))
    comparison = load_comparison([tmp_path / name for name in ("a", "again", "b")])
    assert "only a counts" in comparison.warnings[0]
    ranking = rank(comparison)
    assert ranking.main is not None
    assert [len(entry.values) for entry in ranking.main.entries] == [1, 1]
    assert ranking.main.entries[1].behind is not None
    assert ranking.main.entries[1].behind.half is None


def test_a_trial_whose_files_are_gone_is_left_out_with_a_warning(
    sweep: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "fan"
    shutil.copytree(sweep, copy)
    shutil.rmtree(copy / "flat-20-0.001-s1")
    (copy / "flat-10-0.001-s1" / "config.yaml").write_text("nonsense: 1\n")
    comparison = load_comparison([copy])
    assert len(comparison.warnings) == 2
    assert "flat-10-0.001-s1 is left out" in comparison.warnings[0]
    assert "unknown key 'nonsense'" in comparison.warnings[0]
    assert "flat-20-0.001-s1 is left out" in comparison.warnings[1]
    assert "has no run.json" in comparison.warnings[1]


# What can't be compared.


def test_neither_run_nor_sweep(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"neither a run \(no run.json\) nor a sweep"):
        load_comparison([tmp_path])


def test_one_run_is_nothing_to_compare(tmp_path: Path) -> None:
    run = write_run(base(tmp_path, "a"), ends_at(3.0))
    with pytest.raises(RunError, match="one run is nothing to compare"):
        load_comparison([run, tmp_path / "." / "a"])


def test_a_sweep_stands_alone(sweep: Path, tmp_path: Path) -> None:
    run = write_run(base(tmp_path, "a"), ends_at(3.0))
    with pytest.raises(RunError, match="a sweep is compared by itself"):
        load_comparison([run, sweep])


def test_no_row_has_the_metric(tmp_path: Path) -> None:
    for name in "ab":
        write_run(base(tmp_path, name), ends_at(3.0), evaluates=False)
    paths = [tmp_path / name for name in "ab"]
    with pytest.raises(RunError, match=r"has 'val_loss'; compare by --metric loss, or set eval"):
        load_comparison(paths)
    assert load_comparison(paths, "loss").trials[0].value == pytest.approx(3.01, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not json", "Invalid JSON"),
        ({"format": 2}, "format"),
        ({"status": "done"}, "status"),
        ({"trials": [{"name": "a", "status": "finished", "parent": "b"}]}, "no trial 'b'"),
        ({"trials": [{"name": "a", "status": "finished"}] * 2}, "there twice: a"),
        (
            {"trials": [{"name": "a", "status": "finished", "parent": "a"}]},
            "forked from itself",
        ),
    ],
)
def test_a_sweep_file_that_makes_no_sense(sweep: Path, tmp_path: Path, change: Any, message: str):
    whole = json.loads((sweep / "sweep.json").read_text())
    text = change if isinstance(change, str) else json.dumps(whole | change)
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(RunError, match="can't be read as a sweep") as raised:
        load_comparison([tmp_path])
    assert message in str(raised.value)
    assert str(tmp_path / "sweep.json") in str(raised.value)


# Ranking.


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
    assert [c.label for c in ranking.order] == ["lr.peak 0.001", "lr.peak 0.002"]
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
    assert "No seeds: no configuration has two to compare" in text
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
    assert ranking.order[0].label == "lr.peak 0.002"
    assert ranking.main is not None
    assert ranking.main.entries[1].behind is not None
    assert ranking.main.entries[1].behind.gap == pytest.approx(1.0)
    assert rank(load_comparison([tmp_path / "s"], "loss")).order[0].label == "lr.peak 0.001"


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
    assert ranking.order[0].label == "slow"
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
    assert [c.trials[0].name for c in ranking.order] == [
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
    assert ranking.order[0].label == "a"
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
    # One and a half times 10,000 device-seconds, at 2.50 an hour.
    assert "Training took 4.17 device-hours, a cost of 10.42." in text
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


# The command.


def command(*words: object, columns: int = 160, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "manta.cli", "compare", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": str(columns)},
        timeout=120,
    )


def test_the_command_prints_a_table_the_verdict_and_the_page(sweep: Path, tmp_path: Path) -> None:
    done = command(sweep, "--top", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [line for line in lines if " 2.00B " in line]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert "best" in rows[0]
    assert "… and 9 more" in lines
    assert any(line.startswith("Best of 12: #1 ") for line in lines)
    assert any("At equal tokens (1.80B): " in line for line in lines)
    assert any("At equal compute (2.00 device-hours): " in line for line in lines)
    assert lines[-1] == f"page: {sweep / 'compare.html'}"
    assert (sweep / "compare.html").stat().st_size > 1_000_000


def test_a_narrow_terminal_cuts_no_value(sweep: Path, tmp_path: Path) -> None:
    done = command(sweep, "--output", tmp_path / "page.html", columns=80, cwd=tmp_path)
    assert max(map(len, done.stdout.splitlines()[:20])) <= 80
    ranking = rank(load_comparison([sweep]))
    assert ranking.main is not None
    for entry in ranking.main.entries[:10]:
        assert f"{entry.estimate.mean:.4f} ± {entry.estimate.half:.4f}" in done.stdout


def test_runs_are_compared_into_the_current_folder(tmp_path: Path) -> None:
    for name, wd in (("a", 0.1), ("b", 0.2)):
        config = base(tmp_path, name, optimizer={"weight_decay": wd})
        write_run(config, ends_at(3.0 + wd))
    done = command("a", "b", "--metric", "loss", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "weight_decay 0.2" in done.stdout
    assert "page: compare.html" in done.stdout
    assert (tmp_path / "compare.html").exists()


def test_an_error_is_one_message(tmp_path: Path) -> None:
    done = command("nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere: neither a run (no run.json) nor a sweep")
    assert "Traceback" not in done.stderr


def test_it_starts_without_ray_or_torch(sweep: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from manta.track.compare import load_comparison;"
        "from manta.track.ranking import rank; from manta.track.compare_page import write_page;"
        f"c = load_comparison([Path({str(sweep)!r})]); write_page(c, rank(c), "
        f"Path({str(sweep)!r}) / 'light.html');"
        "print([m for m in ('ray', 'torch', 'wandb', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr

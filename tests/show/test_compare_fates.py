"""Trials that came to no end, and what all of them took: told as it is in their records."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from made_sweep import HORIZON, base, ends_at, trial, write_run, write_sweep
from rich.console import Console

from manta.config import RunConfig, load
from manta.record.history import Tail
from manta.record.results import run_results
from manta.record.run_state import read_state
from manta.show.compare.comparison_page import write_page
from manta.show.compare.comparison_table import print_comparison
from manta.show.compare.ranking import rank
from manta.show.compare.reading import load_comparison
from manta.show.compare.verdict import sentences
from manta.storage.exclusive import LOCK, QUIET_SECONDS, lives
from manta.storage.run_folder import METRICS

HOLDER = """
import sys, pathlib
from manta.storage.exclusive import RunHold
hold = RunHold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def said(paths: list[Path], **options: Any) -> str:
    comparison = load_comparison(paths, **options)
    return "\n".join(sentence.text for sentence in sentences(comparison, rank(comparison)))


def runs(folder: Path, **last: Any) -> list[Path]:
    """Three runs; `last` says what became of the third."""
    for name, wd in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        config = base(folder, name, optimizer={"weight_decay": wd})
        write_run(config, ends_at(3.0 + wd), **(last if name == "c" else {}))
    return [folder / name for name in "abc"]


# Cost and device time.


def test_device_time_and_cost_are_those_of_the_records_everywhere(tmp_path: Path) -> None:
    paths = runs(tmp_path)
    totals = [read_state(path).totals for path in paths]
    comparison = load_comparison(paths)
    for one, path, total in zip(comparison.trials, paths, totals, strict=True):
        stands = run_results(
            read_state(path), load(path / "config.yaml", RunConfig), Tail(path / METRICS).rows()
        )
        assert one.device_seconds == total.device_seconds == stands.device_hours * 3600
        assert one.cost == total.cost == stands.cost
        assert one.compute is not None
        assert stands.compute_hours == pytest.approx(one.compute / 3600)
        assert one.compute < one.device_seconds, "starts and evaluations take time, too"
    hours = sum(total.device_seconds for total in totals) / 3600
    cost = sum(total.cost or 0.0 for total in totals)
    text = f"In all {hours:.2f} device-hours were used, at a cost of {cost:.2f}"
    assert text in said(paths)
    ranking = rank(comparison)
    terminal = io.StringIO()
    print_comparison(comparison, ranking, Console(file=terminal, width=200))
    page = write_page(comparison, ranking, tmp_path / "page.html").read_text()
    for shown in (terminal.getvalue(), page):
        assert text in shown
        assert f"{totals[0].device_seconds / 3600:.2f}" in shown
        assert f"{totals[0].cost:.2f}" in shown
        assert {"used,", "compute,"} <= set(shown.replace(">", " ").split())


def test_rows_that_were_changed_are_told(tmp_path: Path) -> None:
    paths = runs(tmp_path)
    assert load_comparison(paths).warnings == ()
    rows = paths[1] / METRICS
    value = re.search(rb'"val_loss": \d.(\d)', rows.read_bytes())
    assert value is not None
    content = bytearray(rows.read_bytes())
    content[value.start(1)] ^= 1
    rows.write_bytes(content)
    [warning] = load_comparison(paths).warnings
    assert warning.startswith("b: metrics.jsonl was changed after it was written")


# Runs that broke off.


@pytest.mark.parametrize("until", [0, HORIZON // 100])
def test_a_run_without_a_second_evaluation_is_left_out_and_named(
    tmp_path: Path, until: int
) -> None:
    """Else all would be compared where it began."""
    paths = runs(tmp_path, until=until, status="failed", reason="killed")
    if not until:  # one evaluation of the untrained model, and no step
        row = {"step": 0, "tokens": 0, "val_loss": 9.0}
        (paths[-1] / METRICS).write_text(json.dumps(row) + "\n")
    comparison = load_comparison(paths)
    ranking = rank(comparison)
    tokens = ranking.view("tokens")
    assert tokens is None or "c" not in [e.configuration.label for e in tokens.entries]
    assert all(view.at != until for view in ranking.matched)
    text = said(paths)
    assert "Left out, with fewer than two values of val_loss: c (failed at" in text
    assert "Best of 2: #1 a, val_loss" in text
    assert "at 0 tokens (" not in text


def test_two_runs_one_of_which_broke_off_at_once(tmp_path: Path) -> None:
    _, b, c = runs(tmp_path, until=HORIZON // 100, ends=False)
    text = said([b, c])
    assert text.startswith("b: val_loss 3.2200")
    assert "c (lost at 20.0M tokens)" in text


# Signs of life.


def test_a_run_whose_driver_is_gone_is_lost(tmp_path: Path) -> None:
    paths = runs(tmp_path, until=HORIZON // 2, ends=False)
    assert read_state(paths[-1]).status == "running"
    comparison = load_comparison(paths)
    assert [one.status for one in comparison.trials] == ["finished", "finished", "lost"]
    assert "Of 3 runs 2 finished, 1 lost." in said(paths)


def test_a_run_with_a_driver_is_running(tmp_path: Path) -> None:
    paths = runs(tmp_path, until=HORIZON // 2, ends=False)
    driver = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(paths[-1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        before = (paths[-1] / LOCK).read_text()
        assert load_comparison(paths).trials[-1].status == "running"
        assert (paths[-1] / LOCK).read_text() == before, "looking on changes nothing"
    finally:
        driver.kill()
        driver.communicate()
    assert load_comparison(paths).trials[-1].status == "lost"


def test_of_another_machines_driver_the_last_sign_of_life_tells(tmp_path: Path) -> None:
    lock = tmp_path / LOCK
    lock.write_text("process 7 on another.machine\n")
    assert lives(tmp_path)
    quiet = time.time() - QUIET_SECONDS - 1
    os.utime(lock, (quiet, quiet))
    assert not lives(tmp_path)


def test_a_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from manta.storage import exclusive

    monkeypatch.setattr(exclusive, "BEAT_SECONDS", 0.01)
    held = exclusive.RunHold(tmp_path)
    try:
        os.utime(tmp_path / LOCK, (1.0, 1.0))
        deadline = time.monotonic() + 300
        while (tmp_path / LOCK).stat().st_mtime == 1.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        held.release()


def test_trials_of_a_sweep_whose_driver_is_gone_are_lost(tmp_path: Path) -> None:
    trials = [
        trial("a", 1e-3),
        trial("b", 2e-3, status="running", until=HORIZON // 2),
        trial("c", 3e-3, status="waiting", until=0),
    ]
    folder = write_sweep(tmp_path / "s", trials, lambda _: ends_at(3.0), status="running")
    comparison = load_comparison([folder])
    assert comparison.status == "lost"
    assert [one.status for one in comparison.trials] == ["finished", "lost", "waiting"]
    comparison = load_comparison([folder], alive=lambda path: path == folder)
    assert comparison.status == "running"
    assert [one.status for one in comparison.trials] == ["finished", "running", "waiting"]


# Trials that paused together.


def test_trials_that_share_one_training_are_paused_with_it(tmp_path: Path) -> None:
    """Halving stops the one that trains for all: the others need no folder of their own."""
    half, rung = HORIZON // 2, HORIZON // 4
    reason = "paused with b, which trains its first steps"
    shared: dict[str, Any] = {"parent": "b", "fork_tokens": half, "fork_step": 50, "until": half}
    trials = [
        trial("a", 1e-3),
        trial("b", 2e-3, status="paused", until=rung),
        trial("c", 3e-3, status="paused", reason=reason, begins=False, **shared),
        trial("d", 4e-3, status="paused", reason=reason, begins=False, **shared),
    ]
    folder = write_sweep(tmp_path / "s", trials, lambda t: ends_at(3.0))
    comparison = load_comparison([folder])
    assert comparison.warnings == ()
    b, c, d = comparison.trials[1:]
    for one in (c, d):
        assert (one.status, one.reason) == ("paused", reason)
        assert (one.reached, one.own_tokens, one.value) == (b.reached, 0, b.value)
        assert one.device_seconds is None
    text = said([folder])
    assert "Of 4 trials 1 finished, 3 paused." in text
    ranking = rank(comparison)
    page = write_page(comparison, ranking, tmp_path / "page.html").read_text()
    assert page.count(f"paused: {reason}") == 2
    assert "left out" not in page

"""Reading what is compared, and the command that compares it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_sweep import HORIZON, base, ends_at, manifest, trial, write_run, write_sweep

from manta.config.errors import RunError
from manta.show.compare.ranking import rank
from manta.show.compare.reading import load_comparison
from manta.show.compare.verdict import sentences
from manta.storage.seal import SEAL, seal_text, sealed, unsealed

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
    assert forked.compute == pytest.approx(HORIZON / 400_000 * 2)
    assert forked.own_compute == pytest.approx(HORIZON / 400_000 * 2 * 0.4)
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


def test_the_sizes_that_a_pretrained_model_lacks_are_one_difference(tmp_path: Path) -> None:
    from_scratch = base(tmp_path, "scratch")
    further = {**base(tmp_path, "further"), "model": {"pretrained": "models/first"}}
    runs = [write_run(config, ends_at(3.0)) for config in (from_scratch, further)]
    comparison = load_comparison(runs)
    assert comparison.keys == ("model.type", "model.sizes", "model.pretrained")
    labels = [comparison.told(one.params) for one in comparison.configurations]
    assert "type –, sizes –, pretrained models/first" in labels


def test_losses_of_other_objectives_are_a_warning(tmp_path: Path) -> None:
    plain, other = base(tmp_path, "a"), base(tmp_path, "b", objective={"type": "chat"})
    balanced = base(tmp_path, "c", objective={"balance": 0.1})
    each = base(tmp_path, "d", objective={"type": "chat", "per": "sequence"})
    a, b, c, d = (write_run(config, ends_at(3.0)) for config in (plain, other, balanced, each))
    comparison = load_comparison([a, b, d])
    (warning,) = comparison.warnings
    first, *others = (one.text for one in sentences(comparison, rank(comparison)))
    assert first.startswith("Losses of different objectives have no order, so none of these is the")
    assert not any("leads" in other or "Best" in other for other in others)
    assert warning == (
        "not comparable: their losses are of other objectives: causal (a); chat (b); "
        "chat per sequence (d)"
    )
    assert not load_comparison([a, c]).warnings, "a balance loss is no part of the validation loss"
    distilled = [
        base(tmp_path, f"e{at}", objective={"type": "distill", "teacher": "t", "temperature": at})
        for at in (1.0, 2.0)
    ]
    e, f = (write_run(config, ends_at(3.0)) for config in distilled)
    assert not load_comparison([a, e, f]).warnings, "the cross-entropy is, however it is trained on"


def test_other_corpora_are_a_warning(tmp_path: Path) -> None:
    write_run(base(tmp_path, "a"), ends_at(3.0))
    write_run(base(tmp_path, "b"), ends_at(3.0), of=manifest(301))
    (warning, *_) = load_comparison([tmp_path / "a", tmp_path / "b"]).warnings
    assert "not comparable: trained on different corpora" in warning
    assert manifest(301).fingerprint[:12] in warning


def test_losses_over_other_samples_are_a_warning(tmp_path: Path) -> None:
    for name, sample in (("a", "one"), ("b", "two"), ("c", "")):
        write_run(base(tmp_path, name), ends_at(3.0))
        state = tmp_path / name / "run.json"
        content = unsealed(json.loads(state.read_text()))
        content["eval_sample"] = sample
        state.write_text(seal_text(json.dumps(content)))
    (warning, *_) = load_comparison([tmp_path / name for name in "abc"]).warnings
    assert warning == (
        "not comparable: evaluated on different samples: one (a); two (b); by an older version (c)"
    )


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
    with pytest.raises(RunError, match="one run can't be compared"):
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


def changed(whole: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The content of a file with changes, sealed anew where the change names a seal."""
    content = unsealed(whole) | change
    if SEAL not in change:
        return content
    del content[SEAL]
    return sealed(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not json", "it is not valid JSON"),
        ({"format": 2}, "its seal is missing"),
        ({"format": 99, "seal": None}, "format"),
        ({"status": "done"}, "status"),
        ({"trials": [{"name": "a", "status": "finished", "parent": "b"}]}, "no trial 'b'"),
        ({"trials": [{"name": "a", "status": "finished"}] * 2}, "listed twice: a"),
        (
            {"trials": [{"name": "a", "status": "finished", "parent": "a"}]},
            "forked from itself",
        ),
    ],
)
def test_a_sweep_file_that_makes_no_sense(sweep: Path, tmp_path: Path, change: Any, message: str):
    whole = json.loads((sweep / "sweep.json").read_text())
    text = change if isinstance(change, str) else json.dumps(changed(whole, change))
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(RunError, match="can't be read as a sweep") as raised:
        load_comparison([tmp_path])
    assert message in str(raised.value)
    assert str(tmp_path / "sweep.json") in str(raised.value)


# The command.


def command(*words: object, columns: int = 160, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "manta.cli", "compare", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": str(columns)},
        timeout=300,
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
    assert (sweep / "compare.html").stat().st_size > 50_000


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
        "import sys; from pathlib import Path;"
        "from manta.show.compare.reading import load_comparison;"
        "from manta.show.compare.ranking import rank;"
        "from manta.show.compare.comparison_page import write_page;"
        f"c = load_comparison([Path({str(sweep)!r})]); write_page(c, rank(c), "
        f"Path({str(sweep)!r}) / 'light.html');"
        "print([m for m in ('ray', 'torch', 'wandb', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr

"""Who may go on with a run's folder: its own config and corpus, one driver at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_records import Open

from manta.config import RunConfig, load
from manta.config.errors import RunError
from manta.config.mistakes import keys
from manta.corpus.manifest import Manifest
from manta.record.identity import binding_of, changes, free_keys, is_free
from manta.record.run_record import RunRecord


def test_another_config_is_refused_with_the_keys_that_differ(open_record: Open) -> None:
    open_record().close()
    with pytest.raises(RunError) as error:
        open_record(
            optimizer={"weight_decay": 0.5},
            schedule={"horizon": 1000, "lr": {"name": "constant", "peak": 0.2}, "batch": 1},
            model={"type": "gpt2", "sizes": {"n_layer": 3}},
        )
    message = str(error.value)
    assert "optimizer.weight_decay: 0.1 → 0.5" in message
    assert "schedule.lr: 0.1 → " in message
    assert "model.sizes.n_layer: 2 → 3" in message
    assert "run.name" in message
    open_record().close()  # The refusal left neither a lock nor another config.


def test_keys_that_change_no_weight_may_change(open_record: Open) -> None:
    open_record().close()
    record = open_record(scaling={"max": 7}, log={"every": 100}, eval={"every": 50})
    messages = [event.message for event in record.state.events]
    assert "config: scaling.max: (none) → 7" in messages
    assert load(record.run_dir / "config.yaml", RunConfig).scaling.max == 7


def test_a_run_bound_by_an_older_version_goes_on(open_record: Open, manifest: Any) -> None:
    """Older versions counted how a run is computed in what it is trained by."""
    record = open_record(train={"compile": True})
    config = load(record.run_dir / "config.yaml", RunConfig)
    older = binding_of(config, manifest.fingerprint, once=True)
    assert older != record.state.binding
    record.state.binding = older
    record.save()
    record.close()
    record = open_record(train={"compile": False})
    assert record.state.once_bound == older
    assert record.state.binding == binding_of(config, manifest.fingerprint)
    assert "config: train.compile: True → False" in [e.message for e in record.state.events]


def test_free_keys_are_keys_and_the_others_bind() -> None:
    everything = keys(RunConfig)
    for free in free_keys():
        assert any(key == free or key.startswith(f"{free}.") for key in everything), free
    binding = {"train.seq_len", "optimizer.eps", "run.seed", "schedule.horizon", "eval.tokens"}
    assert not any(is_free(key) for key in binding)


def test_changes_in_lists_name_the_item(make_config: Any) -> None:
    def with_end(value: float) -> RunConfig:
        segments = [{"tokens": 10, "from": 0.1}, {"shape": "linear", "to": value}]
        config: RunConfig = make_config(schedule={"horizon": 1000, "lr": segments, "batch": 1})
        return config

    assert [change.key for change in changes(with_end(0.2), with_end(0.3))] == ["schedule.lr.1.to"]


def test_another_corpus_is_refused(
    open_record: Open, make_config: Any, other_manifest: Manifest
) -> None:
    open_record().close()
    with pytest.raises(RunError, match="another corpus"):
        RunRecord.open(make_config(), other_manifest, total_steps=1, total_tokens=1)


def test_a_second_driver_is_refused(open_record: Open) -> None:
    record = open_record()
    with pytest.raises(RunError, match=f"another driver.*process {os.getpid()}"):
        open_record()
    record.close()
    open_record().close()


def test_a_killed_process_holds_nothing(open_record: Open, tmp_path: Path) -> None:
    record = open_record()
    run_dir = record.run_dir
    record.close()
    code = (
        "import sys, pathlib; from manta.storage.exclusive import RunLock;"
        "lock = RunLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="another driver"):
        open_record()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    open_record().close()


def test_a_storage_that_is_a_file_is_refused(open_record: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"set run\.storage"):
        open_record(run={"name": "one", "storage": str(tmp_path / "file")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "{}", r"'name' is missing, and \d+ more like it; it was changed"),
        (
            lambda text: text[: len(text) // 2],
            r"it is not valid JSON \(.* line \d+ column \d+ .*\); it was",
        ),
        (lambda text: text.replace('"running"', '"x"'), r"its seal doesn't match: it was changed"),
        (lambda text: "", r"it is not valid JSON \(Expecting value"),
    ],
)
def test_a_damaged_record_is_refused_by_name_in_a_line(
    open_record: Open, change: Callable[[str], str], message: str
) -> None:
    record = open_record()
    record.close()
    file = record.run_dir / "run.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(
        RunError, match=rf"run\.json: can't be read as a run record: {message}"
    ) as e:
        open_record()
    assert "\n" not in str(e.value)
    assert "validation error" not in str(e.value)


def test_changed_packages_are_an_event(open_record: Open) -> None:
    record = open_record()
    record.state.packages["torch"] = "0.0.1"
    record.save()
    record.close()
    again = open_record()
    assert any("package: torch 0.0.1 →" in event.message for event in again.state.events)

"""The `manta` command as a process: killed and run again, interrupted, offline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command import copy_of_manta, manta
from copied import Copied
from tiny_config import STEP, run_config, write_yaml

STEPS = 60
# Workers that outlive their driver by a few seconds don't reach the end.
HOLD = {"kind": "hold", "step": 26, "attempt": 1, "until": "never"}
# What a person sees who has the time to press Ctrl-C.
SLOW = {"kind": "slow", "seconds": 0.1, "attempt": None}

Process = subprocess.Popen[str] | Copied


def finish(process: Process) -> str:
    """Its whole output, once it has ended well."""
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def wait_for_step(process: Process, run_dir: Path, step: int) -> None:
    """Return once the run's history has reached `step`; fail if the process ends before."""
    metrics = run_dir / "metrics.jsonl"
    while process.poll() is None:
        whole = metrics.read_text().rpartition("\n")[0] if metrics.exists() else ""
        lines = whole.splitlines()
        if lines and json.loads(lines[-1])["step"] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[0])


def wait_for_line(process: Process, text: str) -> None:
    """Return once the command has printed `text`."""
    assert process.stdout is not None
    while text not in (line := process.stdout.readline()):
        assert line, "the command ended"


def steps_of(run_dir: Path) -> list[int]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "loss" in row]


def test_a_killed_driver_goes_on_with_the_same_command(tmp_path: Path, corpus: Path) -> None:
    config = run_config(
        tmp_path,
        corpus,
        schedule={"horizon": STEPS * STEP},
        checkpoint={"every": 10 * STEP},
        faults=[HOLD],
    )
    path = write_yaml(tmp_path / "run.yaml", config)
    run_dir = tmp_path / "tiny"
    first = copy_of_manta("train", str(path))
    wait_for_step(first, run_dir, 25)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert json.loads((run_dir / "run.json").read_text())["status"] == "running"
    reached = max(steps_of(run_dir))
    assert 25 <= reached < STEPS

    output = finish(manta("train", str(path)))
    record = json.loads((run_dir / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["drivers"] == 2
    assert 0 < record["groups"][1]["step"] < STEPS
    assert steps_of(run_dir) == list(range(1, STEPS + 1))
    ledger = pq.read_table(run_dir / "ledger.parquet").to_pylist()
    assert [row["step"] for row in ledger] == list(range(1, STEPS + 1))
    assert ledger[-1]["tokens"] == STEPS * STEP
    # Libraries are silent: all that is printed is Manta's own.
    for chatter in ("Warning", "WARNING", "ray.", "(RayTrainWorker", "wandb:", "UserWarning"):
        assert chatter not in output, output

    refused = copy_of_manta("train", str(path), "--fresh")
    assert "give another run.name" in refused.communicate()[0]
    assert refused.returncode == 1


def interrupt(process: Process, number: signal.Signals) -> None:
    """As a terminal does: to the whole group of processes."""
    os.killpg(process.pid, number)


def test_ctrl_c_saves_and_the_same_command_goes_on(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the user's home is no folder that anybody could write to."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    config = run_config(tmp_path, corpus, schedule={"horizon": 100_000 * STEP}, faults=[SLOW])
    path = write_yaml(tmp_path / "run.yaml", config)
    run_dir = tmp_path / "tiny"
    for number in (signal.SIGINT, signal.SIGTERM):
        before = max(steps_of(run_dir), default=0) if run_dir.exists() else 0
        process = copy_of_manta("train", str(path))
        wait_for_step(process, run_dir, before + 1)
        if number == signal.SIGINT:
            interrupt(process, number)
        else:
            process.send_signal(number)  # a scheduler tells the driver alone
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 130, output
        assert "interrupted: saving a checkpoint" in output
        assert "the same command continues the run" in output
        assert "Traceback" not in output
        record = json.loads((run_dir / "run.json").read_text())
        assert record["status"] == "interrupted"
        reached = steps_of(run_dir)
        assert record["checkpoint"]["step"] == reached[-1], "nothing is lost"
        assert reached == list(range(1, len(reached) + 1))


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, corpus: Path) -> None:
    hang = {"kind": "hang", "rank": 1, "step": 5}
    long, disabled = {"horizon": 100_000 * STEP}, {"mode": "disabled"}
    config = run_config(tmp_path, corpus, schedule=long, faults=[hang], wandb=disabled)
    path = write_yaml(tmp_path / "run.yaml", config)
    process = copy_of_manta("train", str(path))
    wait_for_step(process, tmp_path / "tiny", 4)
    interrupt(process, signal.SIGINT)
    wait_for_line(process, "saving a checkpoint")
    interrupt(process, signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 130, output
    record = json.loads((tmp_path / "tiny" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert "without a checkpoint" in record["reason"]

"""Evaluators beside training: one result a checkpoint, whoever is killed, and the same training."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from command import copy_of_manta
from copied import Copied
from evaluated_runs import evaluation, text_corpus
from inline_prepare import without_ray
from tiny_config import STEP, run_config, write_yaml

from manta.config.load_evaluation import load_evaluation
from manta.evaluate.run_evaluation import evaluate
from manta.record.audit_log import MEASURED, read_log
from manta.record.evaluation_record import EvaluationRecord, read_evaluation, read_examples

STEPS, EVERY = 40, 10
DUE = list(range(EVERY, STEPS + 1, EVERY))
# Notes the process that measures, and stands until it may go on.
OWN = """
import os, time
from pathlib import Path

def measure(model, folder):
    with open(Path(folder) / "pids", "a") as file:
        file.write(f"{os.getpid()}\\n")
    while not (Path(folder) / "go").exists():
        time.sleep(0.02)
    weights = [weight.detach().double().sum() for weight in model.lm.parameters()]
    return {"weights": float(sum(weights))}
"""


def wait_until(what: Any, process: Copied) -> None:
    while not what():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def finish(process: Copied) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def steps_saved(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def untimed(record: EvaluationRecord, folder: Path) -> tuple[Any, Any]:
    """Values and examples."""
    values = {name: one.model_dump() for name, one in record.evaluators.items()}
    return values, [row.model_dump() for row in read_examples(folder, record)]


def test_each_checkpoint_has_one_result_though_task_and_driver_are_killed(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        corpus = text_corpus(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    path = evaluation(
        tmp_path,
        splits={"held_out": {}},
        own={"mine": {"measure": "./mine.py:measure", "options": {"folder": str(tmp_path)}}},
    )
    # The highest loss is not the last one.
    best = {"metric": "held_out/loss", "better": "max", "require": {"held_out/ece": {"at_most": 1}}}
    sections: dict[str, Any] = {
        "schedule": {"horizon": STEPS * STEP},
        "checkpoint": {"every": EVERY * STEP, "keep": 1},
        "scaling": {"min": 1, "resources_per_worker": {"CPU": 1}},
        "wandb": {"mode": "disabled"},
    }
    beside = run_config(tmp_path, corpus, eval={"evaluators": path.name}, **sections)
    beside["checkpoint"] = {**sections["checkpoint"], "best": best}
    command = ["train", str(write_yaml(tmp_path / "run.yaml", beside))]
    run, pids = tmp_path / "tiny", tmp_path / "pids"

    def tried(times: int) -> bool:
        return pids.exists() and len(pids.read_text().split()) >= times

    first = copy_of_manta(*command)
    # Training does not wait for the evaluation of the first checkpoint, and all are kept.
    wait_until(lambda: tried(1) and steps_saved(run) == DUE, first)
    os.kill(int(pids.read_text().split()[-1]), signal.SIGKILL)
    wait_until(lambda: tried(2), first)
    assert not list(run.glob("evaluations/*/evaluation.json"))
    first.send_signal(signal.SIGKILL)
    first.communicate()

    (tmp_path / "go").touch()
    output = finish(copy_of_manta(*command))
    assert "evaluation" in output
    folders = sorted((run / "evaluations").iterdir())
    assert [folder.name for folder in folders] == [f"quality-step-{step:08d}" for step in DUE]
    records = [read_evaluation(folder) for folder in folders]
    found = [row for row in rows_of(run) if "evaluation" in row]
    assert [row["step"] for row in found] == DUE
    for row, record in zip(found, records, strict=True):
        assert row["tokens"] == row["step"] * STEP == record.model.tokens
        assert row["held_out/loss"] == record.evaluators["held_out"].values["loss"]
        assert row["mine/weights"] == record.evaluators["mine"].values["weights"]
    assert len({row["mine/weights"] for row in found}) == len(DUE)
    # Once all are measured, as many checkpoints are left as are asked for, and the best.
    highest = max(found, key=lambda row: row["held_out/loss"])["step"]
    assert highest < DUE[-1]
    assert steps_saved(run) == [highest, DUE[-1]]
    measured = [entry for entry in read_log(run).entries if entry.action == MEASURED]
    assert [entry.facts["step"] for entry in measured] == DUE
    assert "held_out/loss" in (run / "report.html").read_text()

    again = evaluate(run, DUE[-1], load_evaluation(path), output=tmp_path / "again")
    assert isinstance(again, Path)
    assert untimed(read_evaluation(again), again) == untimed(records[-1], folders[-1])

    # To the bit the training that it is without evaluators.
    alone = run_config(tmp_path, corpus, **sections)
    alone["run"]["name"] = "alone"
    finish(copy_of_manta("train", str(write_yaml(tmp_path / "alone.yaml", alone))))
    losses = [
        {row["step"]: (row["loss"], row["grad_norm"]) for row in rows_of(one) if "loss" in row}
        for one in (run, tmp_path / "alone")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS

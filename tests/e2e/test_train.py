"""Training on real Ray: files, world sizes, failures, export."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import plain_runs
import pyarrow.parquet as pq
import pytest
import ray
import torch
from alert_scripts import alert_script, told
from ray.util.placement_group import placement_group, remove_placement_group
from tiny_config import BATCH, SEQ_LEN, STEP, run_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from manta.config import RunConfig, load
from manta.config.errors import MantaError, RunError, TrainingError
from manta.elastic.checks.preflight import Checked, absolute, check, check_model
from manta.elastic.controller import group
from manta.elastic.controller.group import open_worker
from manta.elastic.controller.warm_workers import WarmWorkers
from manta.elastic.driver import early_workers, trainer
from manta.state.checkpoint_files import newest, read_state
from manta.state.weights_digest import digests
from manta.train.export import export, generate, load_weights

pytestmark = pytest.mark.usefixtures("ray_local")

METRICS = {
    *("step", "tokens", "epoch", "loss", "lr", "batch_size", "grad_norm"),
    *("tokens_per_s", "world_size"),
}


def prepared(storage: Path, corpus: Path, **sections: Any) -> Checked:
    """A checked run; without W&B, whose process costs as much as a worker, unless asked for."""
    config = run_config(storage, corpus, **{"wandb": {"mode": "disabled"}, **sections})
    return check_model(check(RunConfig.model_validate(config)))


def train(checked: Checked) -> Path:
    """Train to the end; returns the run's folder."""
    return Path(trainer.train(checked, console=False, pool=pool()).run_dir)


@cache
def pool() -> WarmWorkers | None:
    """Workers that these runs use one after the other; test_driver.py starts its own each time."""
    return trainer.open_worker_pool({"CPU": 0.5})


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def curve(run_dir: Path) -> dict[int, float]:
    """Training loss by step; the history may hold no step twice."""
    logged = [row for row in rows(run_dir) if "loss" in row]
    assert len({row["step"] for row in logged}) == len(logged)
    return {row["step"]: row["loss"] for row in logged}


def ledger(run_dir: Path) -> list[dict[str, Any]]:
    return pq.read_table(run_dir / "ledger.parquet").to_pylist()


def record(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "run.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A run of two workers, with evaluations and checkpoints."""
    storage = tmp_path_factory.mktemp("runs")
    checked = prepared(
        storage,
        corpus,
        eval={"every": 4 * STEP, "tokens": 320},
        checkpoint={"every": 4 * STEP},
        cost={"per_device_hour": 36.0},
        wandb={"mode": "offline"},
    )
    return train(checked)


def test_a_run_leaves_its_files(finished: Path, corpus: Path) -> None:
    found = record(finished)
    assert found["status"] == "finished"
    assert found["totals"]["tokens"] == 12 * STEP
    assert found["totals"]["samples"] == 12 * BATCH
    assert found["totals"]["cost"] == pytest.approx(found["totals"]["device_seconds"] / 100)
    assert (
        found["corpus_fingerprint"]
        == json.loads((corpus / "manifest.json").read_text())["fingerprint"]
    )
    logged = [row for row in rows(finished) if "loss" in row]
    assert [row["step"] for row in logged] == list(range(1, 13))
    assert all(row.keys() >= METRICS for row in logged)
    assert [row["step"] for row in rows(finished) if "val_loss" in row] == [0, 4, 8, 12]
    assert [row["step"] for row in ledger(finished)] == list(range(1, 13))
    assert {row["world_size"] for row in ledger(finished)} == {2}
    assert "tiny" in (finished / "report.html").read_text()
    assert list((finished / "wandb").glob("offline-run-*/*.wandb"))


def test_the_saved_config_can_be_passed_back(finished: Path, corpus: Path) -> None:
    saved = load(finished / "config.yaml", RunConfig)
    before = (finished / "metrics.jsonl").read_text()
    checked = check(saved)
    assert absolute(saved) == saved
    assert train(checked) == finished
    # The run was finished: nothing is trained again.
    assert (finished / "metrics.jsonl").read_text() == before


def test_any_number_of_workers_is_the_same_run(
    finished: Path, tmp_path: Path, corpus: Path
) -> None:
    run_dir = train(prepared(tmp_path, corpus, scaling={"min": 1}))
    assert curve(run_dir) == pytest.approx(curve(finished), rel=1e-5)
    assert {row["world_size"] for row in ledger(run_dir)} == {1}
    proof = [(row["step"], row["first_position"], row["digest"]) for row in ledger(finished)]
    assert [(r["step"], r["first_position"], r["digest"]) for r in ledger(run_dir)] == proof


def test_weights_are_the_same_to_the_bit_at_any_world_size(tmp_path: Path, corpus: Path) -> None:
    """One undisturbed rank without Ray, and three workers of which one dies."""
    sections = {"train": {"reproducible": "any_world_size", "micro_batch": 2}}
    alone = prepared(tmp_path / "alone", corpus, **sections)
    losses = plain_runs.losses(plain_runs.train(alone))
    kill = {"faults": [{"kind": "kill", "rank": 2, "step": 7}], "scaling": {"min": 3}}
    run_dir = train(prepared(tmp_path / "three", corpus, **sections, **kill))
    assert [group["attempt"] for group in record(run_dir)["groups"]] == [1, 2]
    assert curve(run_dir) == losses
    one, three = (newest(run / "checkpoints") for run in (alone.run_dir, run_dir))
    assert digests(one, "") == digests(three, "")  # weights and optimizer


def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path, corpus: Path) -> None:
    steps = 100
    sections = {
        "schedule": {"horizon": steps * STEP},
        "checkpoint": {"every": 10 * STEP},
        "log": {"every": 5 * STEP},
    }
    undisturbed = prepared(tmp_path / "undisturbed", corpus, **sections)
    losses = plain_runs.losses(plain_runs.train(undisturbed, 2))
    kill = {"faults": [{"kind": "kill", "rank": 1, "step": 50}]}
    run_dir = train(prepared(tmp_path / "killed", corpus, **sections, **kill))
    groups = record(run_dir)["groups"]
    assert [group["attempt"] for group in groups] == [1, 2]
    assert 0 < groups[1]["step"] < steps
    assert groups[0]["reason"] == "worker 1: its process died"
    assert curve(run_dir) == losses  # bitwise
    assert {row["attempt"] for row in ledger(run_dir)} == {1, 2}
    assert [(r["step"], r["digest"]) for r in ledger(run_dir)] == [
        (r["step"], r["digest"]) for r in plain_runs.ledger(undisturbed)
    ]


def test_bad_values_stop_the_run_and_name_the_samples(tmp_path: Path, corpus: Path) -> None:
    script = alert_script(tmp_path)
    changes = {"schedule": {"lr": 1e30}, "train": {"clip_norm": None}}
    checked = prepared(tmp_path, corpus, **changes, alerts={"command": str(script)})
    with pytest.raises(TrainingError, match=r"step \d+: .*not finite.*sample ids \d+"):
        train(checked)
    found = record(tmp_path / "tiny")
    assert found["status"] == "failed"
    assert "not finite" in found["reason"]
    # One group trained; nobody tried the same again.
    assert len(found["groups"]) == 1
    (alert,) = told(script)
    assert (alert["kind"], alert["message"]) == ("diverged", found["reason"])
    assert alert["cause"] == found["reason"].partition(":")[0]


def test_more_workers_than_the_machine_holds_are_refused(tmp_path: Path, corpus: Path) -> None:
    checked = prepared(tmp_path, corpus, scaling={"min": 64})
    with pytest.raises(RunError, match=r"scaling\.min = 64 workers need 32 CPU"):
        train(checked)


def test_workers_that_began_before_the_run_are_those_that_train(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = run_config(tmp_path, corpus)["model"]["sizes"] | {"attention_dropout": 0.1}
    checked, started = prepared(tmp_path, corpus, model={"sizes": sizes}), []

    def noted(*arguments: Any) -> Any:
        started.append(open_worker(*arguments))
        return started[-1]

    for module in (group, early_workers):
        monkeypatch.setattr(module, "open_worker", noted)
    checked, begun = early_workers.begin_workers(checked)
    assert len(started) == 2
    run = trainer.train(checked, console=False, begun=begun)
    assert run.status == "finished"
    assert len(started) == 2
    events = [event["message"] for event in record(Path(run.run_dir))["events"]]
    (told,) = [message for message in events if "attention_dropout = 0.1" in message]
    assert "training draws random numbers" in told


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"model": {"sizes": {"num_attention_heads": 3}}}, "is not a multiple of"),
        ({"model": {"sizes": {"pad_token_id": 10**6}}}, r"set model\.sizes\.pad_token_id: null"),
        ({"scaling": {"min": 64}}, r"scaling\.min = 64 workers need 32 CPU"),
    ],
)
def test_workers_that_began_find_what_is_wrong(
    tmp_path: Path, corpus: Path, section: dict[str, Any], says: str
) -> None:
    checked = check(RunConfig.model_validate(run_config(tmp_path, corpus, **section)))
    with pytest.raises(MantaError, match=says):
        early_workers.begin_workers(checked)
    assert not checked.run_dir.exists()


def test_where_no_worker_has_room_the_driver_looks_at_the_model(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"model": {"sizes": {"num_attention_heads": 3}}}
    checked = check(RunConfig.model_validate(run_config(tmp_path, corpus, **wrong)))
    monkeypatch.delattr(early_workers, "open_worker")
    taken = placement_group([{"CPU": 2}])
    ray.get(taken.ready())
    try:
        with pytest.raises(MantaError, match="is not a multiple of"):
            early_workers.begin_workers(checked)
    finally:
        remove_placement_group(taken)


def test_another_config_under_the_same_name_is_refused(finished: Path, corpus: Path) -> None:
    checked = prepared(finished.parent, corpus, schedule={"lr": 2e-3})
    with pytest.raises(RunError, match=r"schedule\.lr"):
        train(checked)


def test_the_exported_model_has_the_same_logits(finished: Path, tmp_path: Path) -> None:
    out = export(finished, tmp_path / "model")
    assert (out / "model.safetensors").exists()
    exported = AutoModelForCausalLM.from_pretrained(out).eval()
    ours = load_weights(finished, load(finished / "config.yaml", RunConfig), None).eval()
    tokens = torch.arange(SEQ_LEN)[None]
    with torch.no_grad():
        assert torch.equal(exported(tokens).logits, ours(tokens).logits)
    assert len(AutoTokenizer.from_pretrained(out)) == 300
    text = generate(out, "document", tokens=8, temperature=0.0, seed=0)
    assert text.startswith("document")
    assert text == generate(finished, "document", tokens=8, temperature=0.0, seed=0)
    with pytest.raises(RunError, match="exists already"):
        export(finished, out)
    with pytest.raises(RunError, match="there are those of steps"):
        export(finished, tmp_path / "other", step=5)
    assert not (tmp_path / "other").exists()


def test_the_last_checkpoint_is_the_end_of_the_run(finished: Path) -> None:
    state = read_state(newest(finished / "checkpoints"))
    assert (state.step, state.cursor, state.tokens) == (12, 12 * BATCH, 12 * STEP)
    assert os.listdir(finished / "checkpoints")

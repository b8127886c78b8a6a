"""The Python surface: what is public stays so, and what docs/python.md shows runs."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from tiny_config import STEP, run_config, write_yaml

from manta import api
from manta.record.run_state import read_state

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()
# Users build on these: another name, argument or field is a decision, and goes into the changelog.
SURFACE = """
ComparedRuns: metric, runs, verdict, warnings
RecordedEvaluation: name, folder, model, step, fingerprint, values, final
RecordedEvaluation.examples(self)
RecordedRun: name, folder, status, steps, tokens, loss, val_loss, best_val_loss, device_hours, \
cost, goodput, device_seconds
RecordedRun.metrics(self, kind=None)
RecordedSweep: name, folder, status, metric, mode, trials, best
RecordedSweep.run(self, trial)
compare(runs, *, metric=None, page=None)
compare_evaluations(baseline, *others)
evaluate(model, config, overrides=None, *, step=None, output=None, final=False)
open_evaluation(folder, name=None)
open_run(folder)
open_sweep(folder)
read_metrics(run, kind=None)
sweep(config, overrides=None, *, address=None)
train(config, overrides=None, *, address=None, fresh=False, restart=False)
write_corpus(folder, data, form)
ConfigError CorpusError DivergedError MantaError RunConfig RunError SweepConfig TrainingError
"""


def bare(function: object, name: str) -> str:
    """A function's name and arguments, without their types."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return f"{name}{inspect.Signature(plain)}"


def surface() -> list[str]:
    """What `manta.api` offers, in the form of `SURFACE`."""
    found, rest = [], []
    for name in api.__all__:
        thing = getattr(api, name)
        if is_dataclass(thing):
            found.append(f"{name}: {', '.join(field.name for field in fields(thing))}")
            methods = {key: value for key, value in vars(thing).items() if key[0] != "_"}
            found += [
                bare(method, f"{name}.{key}")
                for key, method in methods.items()
                if inspect.isfunction(method)
            ]
        elif inspect.isfunction(thing):
            found.append(bare(thing, name))
        else:
            rest.append(name)
    return [*found, " ".join(rest)]


def test_the_surface_is_what_was_decided() -> None:
    assert sorted(surface()) == sorted(SURFACE.strip().splitlines())


def test_every_public_name_says_what_it_is_for() -> None:
    for name in api.__all__:
        thing = getattr(api, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing):
            assert "return" in thing.__annotations__, name


def test_the_package_says_that_it_has_types() -> None:
    assert (Path(api.__file__).parent / "py.typed").exists()


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_what_the_page_shows_runs(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ray_local: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = run_config(
        Path("runs"),
        corpus,
        schedule={
            "horizon": 12 * STEP,
            "lr": {"name": "wsd", "peak": 1e-2, "warmup": STEP, "decay": "25%"},
        },
        eval={"every": 4 * STEP, "tokens": 160},
        wandb={"mode": "disabled"},
        scaling={"min": 1, "resources_per_worker": {"CPU": 1}},
    )
    monkeypatch.chdir(tmp_path)
    write_yaml(Path("run.yaml"), config)
    Path("space.py").write_text(
        'from ray import tune\nspace = {"schedule.lr.decay": tune.grid_search(["50%", "25%"])}\n'
    )
    sections = {
        "sweep": {"name": "decays", "storage": "sweeps"},
        "base": "run.yaml",
        "space": "./space.py",
    }
    write_yaml(Path("sweep.yaml"), sections)
    assert len(BLOCKS) == 6
    shown: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), shown)  # the page is our own
    assert "overrides: schedule.horizon = 'many'" in capsys.readouterr().out
    check_runs(shown["run"], shown["table"], config)
    check_comparison(shown["comparison"])
    check_sweep(shown["sweep"])
    check_evaluation(shown["first"], shown["run"])


def check_runs(run: object, table: object, config: dict[str, object]) -> None:
    assert isinstance(run, api.RecordedRun)
    state = read_state(Path("runs/first"))
    assert (run.status, run.steps, run.tokens) == ("finished", 12, 12 * STEP)
    assert run == api.open_run("runs/first")
    assert run.best_val_loss == state.results.best_val_loss
    lines = Path("runs/first/metrics.jsonl").read_text().splitlines()
    assert isinstance(table, pa.Table)
    assert [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()] == [
        json.loads(line) for line in lines
    ]
    assert run.metrics("validation").column("step").to_pylist() == [0, 4, 8, 12]
    assert run.metrics("training").column("loss").null_count == 0
    # A mapping and a built config are the same run: it is at its end, and nothing is trained.
    again = {**config, "run": {**config["run"], "name": "first"}}  # type: ignore[dict-item]
    assert api.train(again).steps == 12
    built = api.RunConfig.model_validate(again)
    with pytest.raises(api.ConfigError, match="--fresh"):
        api.train(built, fresh=True)
    with pytest.raises(api.RunError, match="no run"):
        api.read_metrics("runs")


def check_evaluation(found: object, run: object) -> None:
    assert isinstance(found, api.RecordedEvaluation)
    assert isinstance(run, api.RecordedRun)
    assert found == api.open_evaluation("runs/first", "quality")
    rows = found.examples()
    assert set(rows.column("evaluator").to_pylist()) == {"held_out"}
    assert rows.column("source").to_pylist() == ["made"] * rows.num_rows
    with pytest.raises(api.ConfigError, match="nothing to measure"):
        api.evaluate(run, {"name": "nothing"})


def check_comparison(comparison: object) -> None:
    assert isinstance(comparison, api.ComparedRuns)
    assert comparison.runs.column("name").to_pylist() == ["first", "slower"]
    assert comparison.runs.column("rank").to_pylist() == [1, 2]
    assert comparison.runs.column("schedule.lr.peak").to_pylist() == [0.01, 0.001]
    assert "first" in comparison.verdict[0]
    assert Path("compare.html").stat().st_size > 10_000


def check_sweep(sweep: object) -> None:
    assert isinstance(sweep, api.RecordedSweep)
    assert sweep == api.open_sweep("sweeps/decays")
    assert (sweep.status, sweep.metric, sweep.mode) == ("finished", "val_loss", "min")
    trials = {row["name"]: row for row in sweep.trials.to_pylist()}
    assert {row["schedule.lr.decay"] for row in trials.values()} == {"50%", "25%"}
    assert sweep.best is not None
    assert trials[sweep.best]["value"] == min(row["value"] for row in trials.values())
    compared = api.compare(sweep)
    assert compared.runs.column("name").to_pylist()[0] == sweep.best

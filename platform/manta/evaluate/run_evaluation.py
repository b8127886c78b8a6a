"""An evaluation from beginning to end: check data, load the model, measure, write the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import manta
from manta.config.errors import ConfigError, RunError
from manta.config.evaluation import EvaluationConfig
from manta.config.metrics import EVALUATED
from manta.config.run import RunConfig
from manta.config.urls import is_url
from manta.evaluate.choices_and_labels import ChoicesAndLabels
from manta.evaluate.evaluator import Evaluator, Measured
from manta.evaluate.generated_answers import GeneratedAnswers
from manta.evaluate.harness_task import HarnessTask
from manta.evaluate.model_at_hand import ModelAtHand, run_config_of
from manta.evaluate.own_metric import OwnMetric
from manta.evaluate.split_loss import SplitLoss
from manta.record.audit_log import MEASURED, TEST_SPLIT, add_entry, note, read_log
from manta.record.evaluation_record import (
    Better,
    EvaluatedFacts,
    EvaluatorResult,
    evaluation_folder,
    ratios,
    sums_by_slice,
    write_evaluation,
)
from manta.record.provenance import driver_hardware, git_state, package_versions
from manta.record.run_state import utc_now
from manta.show.evaluations.evaluation_page import write_evaluation_page
from manta.show.report.run_report import write_report
from manta.state.checkpoint_files import Inventory, name_of, newest, read_state, whole
from manta.storage.exclusive import lives
from manta.storage.place import Place
from manta.storage.probe import check_writable
from manta.storage.run_folder import CHECKPOINTS, REPORT
from manta.storage.seal import digest
from manta.train.device_kind import device_kind


def evaluate(
    where: Place,
    step: int | None,
    config: EvaluationConfig,
    *,
    output: Place | None = None,
    final: bool = False,
    beside: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Place:
    """Evaluate a model; returns the folder of the result.

    All examples are computed one by one in this process, on one device.

    Args:
        where: a run's folder or URL, or an exported model's folder.
        step: step of a run's checkpoint; by default the newest.
        config: evaluators, and the device to measure on.
        output: the result's folder; by default one in the model's folder.
        final: whether the test split may be read.
        beside: whether the run trains meanwhile, and waits for the result.
        tell: takes lines for people.

    Raises:
        MantaError: if config, data or model can't be used; what can be told before the model is
            loaded is.
    """
    run_config = run_config_of(where)
    trained = None if run_config is None else _trained(where, step)
    step = None if trained is None else trained.state.step
    evaluators = made(config, run_config)
    reads_test = check_final(evaluators, final)
    folder = output or evaluation_folder(where, config.name, step)
    check_writable(folder, "--output")
    before = read_log(where).count(TEST_SPLIT)
    model = ModelAtHand(where, step, config, tell)
    facts = _facts(model, trained)
    if reads_test:
        _note_test_split(where, facts, config, before, tell)
    began = time.perf_counter()
    found = {one.name: (one, _measured(one, model, tell)) for one in evaluators}
    rows = [row for _, measured in found.values() for row in measured.rows]
    record = {
        "name": config.name,
        "created": utc_now(),
        "manta_version": manta.__version__,
        "model": facts.model_dump(),
        "evaluators": {name: result_of(*pair).model_dump() for name, pair in found.items()},
        "final": reads_test,
        "beside": beside,
        "test_split_before": before if reads_test else 0,
        "device": device_kind(model.device),
        "precision": config.precision,
        "seconds": time.perf_counter() - began,
        "packages": package_versions(),
        "hardware": driver_hardware(),
        "git": git_state(Path.cwd()),
        "config": config.model_dump(mode="json"),
    }
    write_evaluation(folder, record, rows)
    write_evaluation_page(folder)
    _note_evaluation(where, facts, config.name, folder, tell)
    if isinstance(where, Path) and (where / REPORT).exists() and not lives(where):
        write_report(where)
    return folder


def made(config: EvaluationConfig, run_config: RunConfig | None) -> list[Evaluator]:
    """The evaluators of a config, whose data is checked.

    Raises:
        MantaError: if data can't be used.
    """
    price = config.price.per_device_hour
    if price is None and run_config is not None:
        price = run_config.cost.usual_price
    return [
        *(OwnMetric(name, section, config.code) for name, section in config.own.items()),
        *(
            GeneratedAnswers(name, section, price, config)
            for name, section in config.generations.items()
        ),
        *(ChoicesAndLabels(name, section) for name, section in config.calibration.items()),
        *(HarnessTask(name, section) for name, section in config.tasks.items()),
        *(SplitLoss(name, section, run_config) for name, section in config.splits.items()),
    ]


def check_final(evaluators: Sequence[Evaluator], final: bool) -> bool:
    """Whether a test split is read.

    Raises:
        ConfigError: if one would be without `final`, or none is with it.
    """
    reading = [one.name for one in evaluators if one.reads_test_split]
    if reading and not final:
        raise ConfigError(
            f"splits.{reading[0]}.split = 'test': a test split that is looked at while a model is "
            "still chosen tests nothing any more: when the choice is made, evaluate once with "
            "--final; until then take the validation split"
        )
    if final and not reading:
        raise ConfigError(
            "--final is for an evaluation that reads a test split, which none of its splits does"
        )
    return bool(reading)


def _note_test_split(
    where: Place,
    facts: EvaluatedFacts,
    config: EvaluationConfig,
    before: int,
    tell: Callable[[str], None],
) -> None:
    """Note that the test split is looked at, before it is."""
    if before:
        tell(
            f"note: a test split was read for this model's folder {before} time"
            f"{'s' if before > 1 else ''} before: this is no first look, and the result says so"
        )
    said = {"name": config.name, "step": facts.step, "fingerprint": facts.fingerprint}
    add_entry(where, TEST_SPLIT, said)


def _note_evaluation(
    where: Place, facts: EvaluatedFacts, name: str, folder: Place, tell: Callable[[str], None]
) -> None:
    """Note in the model's log that it was evaluated; a folder that can't be written has none."""
    said = {"name": name, "step": facts.step, "fingerprint": facts.fingerprint, "to": str(folder)}
    note(where, MEASURED, said, tell)


def _trained(where: Place, step: int | None) -> Inventory:
    """What a run's checkpoint says of itself, by default the newest.

    Raises:
        RunError: if there is no such checkpoint.
    """
    folder = where / CHECKPOINTS
    checkpoint = newest(folder) if step is None else folder / name_of(step)
    if not checkpoint.is_dir():
        there = ", ".join(str(read_state(path).step) for path in whole(folder))
        raise RunError(f"{checkpoint}: no such checkpoint; there are those of steps {there}")
    return Inventory.read(checkpoint)


def _facts(model: ModelAtHand, trained: Inventory | None) -> EvaluatedFacts:
    """What the result says of the model."""
    where = str(model.where)
    return EvaluatedFacts(
        place=where if is_url(where) else str(Path(where).absolute()),
        run="" if model.run_config is None else model.run_config.run.name,
        step=None if trained is None else trained.state.step,
        tokens=None if trained is None else trained.state.tokens,
        parameters=model.parameters,
        fingerprint=model.fingerprint,
        checkpoint="" if trained is None else trained.stamp,
    )


def _measured(evaluator: Evaluator, model: ModelAtHand, tell: Callable[[str], None]) -> Measured:
    tell(f"{evaluator.name}: {evaluator.data} …")
    measured = evaluator.measure(model)
    ids = [row.id for row in measured.rows]
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise RunError(f"{evaluator.name}: two examples have the id '{twice}'")
    return measured


def result_of(evaluator: Evaluator, measured: Measured) -> EvaluatorResult:
    """What the record says of what an evaluator found; means follow from its rows alone."""
    sliced = sums_by_slice(measured.rows)
    values = {**ratios(row.sums for row in measured.rows), **measured.values}
    known: dict[str, Better] = {
        name: metric.best
        for name, metric in EVALUATED.items()
        if metric.best is not None and evaluator.type not in ("own", "task")
    }
    better = {**known, **measured.better}
    return EvaluatorResult(
        type=evaluator.type,
        data=evaluator.data,
        data_hash=evaluator.data_hash,
        settings=digest({"type": evaluator.type, **evaluator.settings})[:16],
        examples=len(measured.rows),
        values=values,
        better={name: better[name] for name in values if name in better},
        slices={
            kind: {name: ratios(sums) for name, sums in found.items()}
            for kind, found in sliced.items()
        },
        sizes={
            kind: {name: len(sums) for name, sums in found.items()}
            for kind, found in sliced.items()
        },
        curves=measured.curves,
        remarks=measured.remarks,
    )

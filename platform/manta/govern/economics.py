"""What quality costs: models by their evaluations, the Pareto front, the smallest that may ship."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from manta.config.errors import ConfigError, RunError
from manta.config.metrics import TIMED
from manta.record.evaluation_record import (
    EvaluationRecord,
    find_evaluation,
    read_evaluation,
    read_examples,
)
from manta.record.gate_record import gates_of
from manta.record.metric_text import FIRST, model_name
from manta.storage.place import Place
from manta.storage.run_folder import EVALUATION

SECONDS_AN_HOUR = 3600
# What is weighed against quality, in the order in which it is shown: less is better of each.
COSTS = ("latency_p95", "peak_memory", "cost_per_1000")


class EconomicModel(BaseModel):
    """One model.

    Attributes:
        name: name of the model, for people.
        place: folder or URL of the model.
        parameters: number of weights.
        quality: value of the metric of quality.
        costs: latency, memory and cost of 1,000 interactions, as far as they were measured.
        gates: name of each gate that decided on it → whether it passed.
        passed: whether all gates that count were passed; None if none decided.
        on_front: whether no other model is as good in everything and better in something.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    place: str
    parameters: int
    quality: float
    costs: dict[str, float]
    gates: dict[str, bool]
    passed: bool | None
    on_front: bool = False


class Economics(BaseModel):
    """Several models, the best quality first.

    Attributes:
        quality: name of the metric of quality.
        better: direction in which the metric is better.
        answers: evaluator that latency, memory and cost are of; "" if there is none.
        price: price of a device for an hour; None as each evaluation had it.
        models: the models.
        smallest: name of the smallest model that passed; "" if none did.
        remarks: sentences on what to be careful of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    quality: str
    better: Literal["min", "max"]
    answers: str
    price: float | None
    models: list[EconomicModel]
    smallest: str
    remarks: list[str]


def economics_of(
    places: Sequence[Place],
    evaluation: str | None = None,
    quality: str | None = None,
    gate: str | None = None,
    price: float | None = None,
) -> Economics:
    """Weigh models by their evaluations on the same data.

    Args:
        places: runs, exported models or folders of evaluations, two or more.
        evaluation: name of the evaluations; by default the newest of each.
        quality: metric of quality, such as ``answers/success``; by default the first that all have.
        gate: gate that counts; by default all that decided.
        price: price of a device for an hour; by default that of the evaluations.

    Raises:
        RunError: if an evaluation is missing, or they are of other data.
        ConfigError: if a metric is missing or has no direction.
    """
    if len(places) < 2:
        raise RunError("give two or more models, each with an evaluation of the same data")
    folders = [find_evaluation(place, evaluation) for place in places]
    records = [read_evaluation(folder) for folder in folders]
    metric, better = _quality(records, quality)
    answers = _answers(records)
    _check_same(folders, records, {metric.partition("/")[0], *([answers] if answers else [])})
    models = [
        _model(folder, record, metric, answers, gate, price)
        for folder, record in zip(folders, records, strict=True)
    ]
    axes = _axes(models, better)
    models = [
        model.model_copy(update={"on_front": here})
        for model, here in zip(models, front(axes), strict=True)
    ]
    models.sort(key=lambda one: -one.quality if better == "max" else one.quality)
    passing = sorted(
        (model for model in models if model.passed),
        key=lambda one: (one.parameters, not one.on_front),
    )
    return Economics(
        quality=metric,
        better=better,
        answers=answers,
        price=price,
        models=models,
        smallest=passing[0].name if passing else "",
        remarks=_remarks(records, models, answers),
    )


def front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each point is on the Pareto front: none is as small in all and smaller in one."""
    return [
        not any(
            all(a <= b for a, b in zip(other, point, strict=True)) and tuple(other) != tuple(point)
            for other in points
        )
        for point in points
    ]


def _axes(models: Sequence[EconomicModel], better: str) -> list[list[float]]:
    """Quality and costs of each model, such that less is better; costs that all models have."""
    shared = [name for name in COSTS if all(name in model.costs for model in models)]
    sign = -1 if better == "max" else 1
    return [
        [sign * model.quality, *(model.costs[name] for name in shared), model.parameters]
        for model in models
    ]


def _quality(
    records: Sequence[EvaluationRecord], wanted: str | None
) -> tuple[str, Literal["min", "max"]]:
    directions = {
        f"{name}/{metric}": direction
        for name, result in records[0].evaluators.items()
        for metric, direction in result.better.items()
    }
    shared = [
        name
        for name in directions
        if name.rpartition("/")[2] not in TIMED
        and all(name in record.values() for record in records)
    ]
    if wanted is None:
        known = [name for metric in FIRST for name in shared if name.endswith(f"/{metric}")]
        if not (known or shared):
            raise ConfigError(
                "the evaluations have no metric in common with a direction: evaluate all models by "
                "the same config"
            )
        wanted = (known or shared)[0]
    if wanted not in shared:
        raise ConfigError(
            f"--quality {wanted}: not a metric with a direction that all evaluations have; there "
            f"are {', '.join(shared)}"
        )
    return wanted, directions[wanted]


def _answers(records: Sequence[EvaluationRecord]) -> str:
    """The evaluator whose latency all models have."""
    for name, result in records[0].evaluators.items():
        if COSTS[0] in result.values and all(f"{name}/{COSTS[0]}" in r.values() for r in records):
            return name
    return ""


def _check_same(
    folders: Sequence[Place], records: Sequence[EvaluationRecord], names: set[str]
) -> None:
    for name in sorted(names):
        first = records[0].evaluators[name]
        for folder, record in zip(folders, records, strict=True):
            other = record.evaluators[name]
            if (other.data_hash, other.settings) != (first.data_hash, first.settings):
                raise RunError(
                    f"{folder}: its '{name}' read other data or had other settings than that of "
                    f"{folders[0]}: evaluate all models by the same config"
                )


def _model(
    folder: Place,
    record: EvaluationRecord,
    metric: str,
    answers: str,
    gate: str | None,
    price: float | None,
) -> EconomicModel:
    measured = record.evaluators[answers].values if answers else {}
    costs = {name: measured[name] for name in COSTS if name in measured}
    if price is not None and answers:
        costs["cost_per_1000"] = _cost(folder, record, answers, price)
    gates = _gates(folder, gate)
    return EconomicModel(
        name=model_name(record.model),
        place=record.model.place,
        parameters=record.model.parameters,
        quality=record.values()[metric],
        costs=costs,
        gates=gates,
        passed=all(gates.values()) if gates else None,
    )


def _gates(folder: Place, gate: str | None) -> dict[str, bool]:
    """Decisions of gates on an evaluation as it is now."""
    digest = hashlib.sha256((folder / EVALUATION).read_bytes()).hexdigest()
    return {
        one.name: one.passed
        for one in gates_of(folder)
        if gate in (None, one.name) and one.evaluation == digest
    }


def _cost(folder: Place, record: EvaluationRecord, answers: str, price: float) -> float:
    """The price of 1,000 answers, from the time of each."""
    rows = read_examples(folder, record)
    seconds = [row.shown["seconds"] for row in rows if row.evaluator == answers]
    return 1000 * float(np.mean(seconds)) * price / SECONDS_AN_HOUR


def _remarks(
    records: Sequence[EvaluationRecord], models: Sequence[EconomicModel], answers: str
) -> list[str]:
    found = []
    if not answers:
        found.append(
            "No evaluation has answers, and so no latency, memory or cost: add 'generations'."
        )
    devices = sorted({record.device for record in records})
    if len(devices) > 1:
        found.append(f"Measured on different devices: {', '.join(devices)}.")
    prices = {str(record.config.get("price")) for record in records}
    if len(prices) > 1:
        found.append("Evaluations had different prices: give one with --price.")
    lacking = [model.name for model in models if model.passed is None]
    if lacking:
        found.append(f"No gate has decided on {', '.join(lacking)}.")
    return found

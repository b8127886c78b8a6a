"""Two evaluations compared example by example: what differs, whether that is noise, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from manta.config.errors import RunError
from manta.config.metrics import TIMED
from manta.record.evaluation_record import (
    Better,
    EvaluationRecord,
    EvaluatorResult,
    ExampleRow,
    Sums,
    read_evaluation,
    read_examples,
    slice_order,
)
from manta.record.metric_text import FIRST
from manta.show.evaluations.paired_bootstrap import Paired, PairedDifference, differences
from manta.storage.place import Place

# Kind and name of a slice; of all examples, two empty texts.
Slice = tuple[str, str]
ALL: Slice = ("", "")


@dataclass(frozen=True)
class ComparedEvaluator:
    """What one evaluator found of two models.

    Attributes:
        name: name of the evaluator.
        better: metric → whether less or more of it is better.
        paired: metric → difference over all examples.
        slices: slice and metric → difference over its examples.
        plain: metric that is no mean over examples → its two values.
        changed: examples that differ most, each as it is for either model.
        why: why nothing could be compared; "" if it could.
    """

    name: str
    better: Mapping[str, Better] = field(default_factory=dict)
    paired: Mapping[str, PairedDifference] = field(default_factory=dict)
    slices: Mapping[tuple[Slice, str], PairedDifference] = field(default_factory=dict)
    plain: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    changed: Sequence[tuple[ExampleRow, ExampleRow]] = ()
    why: str = ""

    @property
    def main(self) -> str | None:
        """The metric that tells which examples changed; None if none is over examples."""
        return main_metric(list(self.paired), self.better)


@dataclass(frozen=True)
class PairedComparison:
    """A model compared with a baseline.

    Attributes:
        first: evaluation of the baseline.
        second: evaluation of the other model.
        evaluators: the evaluators of the baseline, in its order.
        tests: number of differences whose intervals hold together.
        remarks: sentences on what to be careful of.
    """

    first: EvaluationRecord
    second: EvaluationRecord
    evaluators: tuple[ComparedEvaluator, ...]
    tests: int
    remarks: tuple[str, ...]

    def differences(self) -> dict[str, PairedDifference]:
        """All differences over examples by the name of their metric, with those of slices."""
        found = dict[str, PairedDifference]()
        for one in self.evaluators:
            found |= {f"{one.name}/{metric}": d for metric, d in one.paired.items()}
            for ((kind, name), metric), difference in one.slices.items():
                found[f"{one.name}/{metric}[{kind}={name}]"] = difference
        return found


def compare_evaluations(
    places: Sequence[Place], tests: int | None = None
) -> list[PairedComparison]:
    """Compare evaluations with the first of them, their baseline.

    Intervals hold for all metrics of all models together; those of slices for all slices of an
    evaluator.

    Args:
        places: folders of evaluations.
        tests: number of differences that are looked at together, if not all are.

    Raises:
        RunError: if one can't be read, or no evaluator can be compared.
    """
    read = [(place, read_evaluation(place)) for place in places]
    rows = [_by_evaluator(read_examples(place, record)) for place, record in read]
    (_, first), first_rows = read[0], rows[0]
    others = list(zip((record for _, record in read[1:]), rows[1:], strict=True))
    tests = tests or sum(
        len(list(_shared(name, first, other, first_rows, other_rows)))
        for other, other_rows in others
        for name in first.evaluators
    )
    found = [_compared(first, other, first_rows, other_rows, tests) for other, other_rows in others]
    for comparison in found:
        if all(one.why for one in comparison.evaluators):
            said = "; ".join(f"{one.name}: {one.why}" for one in comparison.evaluators)
            raise RunError(f"{places[0]}: nothing can be compared: {said}")
    return found


Rows = Mapping[str, Mapping[str, ExampleRow]]


def _by_evaluator(rows: Sequence[ExampleRow]) -> Rows:
    found: dict[str, dict[str, ExampleRow]] = {}
    for row in rows:
        found.setdefault(row.evaluator, {})[row.id] = row
    return found


def _compared(
    first: EvaluationRecord,
    second: EvaluationRecord,
    first_rows: Rows,
    second_rows: Rows,
    tests: int,
) -> PairedComparison:
    evaluators = []
    for name, result in first.evaluators.items():
        if why := _why_not(name, result, second):
            evaluators.append(ComparedEvaluator(name, why=why))
            continue
        one, two = first_rows.get(name, {}), second_rows.get(name, {})
        evaluators.append(_evaluator(name, result, second.evaluators[name], one, two, tests))
    return PairedComparison(first, second, tuple(evaluators), tests, _remarks(first, second))


def _why_not(name: str, result: EvaluatorResult, other: EvaluationRecord) -> str:
    there = other.evaluators.get(name)
    if there is None:
        return "the other evaluation has no such evaluator"
    if there.type != result.type or there.settings != result.settings:
        return "its settings differ, such as the most tokens of an answer"
    if there.data_hash != result.data_hash:
        return "it read other data; evaluate both models on the same"
    return ""


def _shared(
    name: str, first: EvaluationRecord, second: EvaluationRecord, one: Rows, two: Rows
) -> Iterator[str]:
    """The metrics of an evaluator that are compared over examples."""
    if not _why_not(name, first.evaluators[name], second):
        rows = [*one.get(name, {}).values(), *two.get(name, {}).values()]
        yield from dict.fromkeys(metric for row in rows for metric in row.sums)


def _evaluator(
    name: str,
    first: EvaluatorResult,
    second: EvaluatorResult,
    one: Mapping[str, ExampleRow],
    two: Mapping[str, ExampleRow],
    tests: int,
) -> ComparedEvaluator:
    ids = [id_ for id_ in sorted(one) if id_ in two]
    pairs = [(one[id_], two[id_]) for id_ in ids]
    better = {**second.better, **first.better}
    metrics = list(dict.fromkeys(metric for row in one.values() for metric in row.sums))
    every = {metric: _paired([(a.sums, b.sums) for a, b in pairs], metric) for metric in metrics}
    paired = dict(zip(every, differences(_given(every, better), tests), strict=True))
    main = main_metric(metrics, better)
    plain = {
        metric: (value, second.values[metric])
        for metric, value in first.values.items()
        if metric not in paired and metric in second.values
    }
    return ComparedEvaluator(
        name=name,
        better=better,
        paired=paired,
        slices=_slices(pairs, main, better),
        plain=plain,
        changed=_changed(pairs, main, better),
    )


def _given(sums: Mapping[str, Paired], better: Mapping[str, Better]) -> list[Paired]:
    return [Paired(one.first, one.second, better.get(metric)) for metric, one in sums.items()]


def _paired(pairs: Sequence[tuple[Sums, Sums]], metric: str) -> Paired:
    """The sums of a metric; 0 where one of the two models lacks it."""
    table = np.zeros((len(pairs), 4))
    for row, (first, second) in enumerate(pairs):
        if metric in first and metric in second:
            table[row] = (*first[metric], *second[metric])
    return Paired(table[:, :2], table[:, 2:])


def _slices(
    pairs: Sequence[tuple[ExampleRow, ExampleRow]], main: str | None, better: Mapping[str, Better]
) -> dict[tuple[Slice, str], PairedDifference]:
    """The main metric's difference in each slice of those kinds that have several."""
    if main is None:
        return {}
    by_slice: dict[Slice, list[tuple[Sums, Sums]]] = {}
    for row, (first, second) in enumerate(pairs):
        for slice_, sums in _sums_of(first, second):
            listed = by_slice.setdefault(slice_, [({}, {})] * len(pairs))
            listed[row] = sums
    kinds = [kind for kind, _ in by_slice]
    ordered = sorted(by_slice, key=lambda slice_: (kinds.index(slice_[0]), slice_order(slice_[1])))
    several = {slice_: by_slice[slice_] for slice_ in ordered if kinds.count(slice_[0]) > 1}
    given = [_paired(found, main) for found in several.values()]
    found = differences([Paired(one.first, one.second, better.get(main)) for one in given])
    return {(slice_, main): one for slice_, one in zip(several, found, strict=True)}


def _sums_of(first: ExampleRow, second: ExampleRow) -> Iterator[tuple[Slice, tuple[Sums, Sums]]]:
    for kind, name in first.slices.items():
        yield (kind, name), (first.sums, second.sums)
    for kind, parts in first.parts.items():
        for name, sums in parts.items():
            yield (kind, name), (sums, second.parts.get(kind, {}).get(name, {}))


def main_metric(metrics: Sequence[str], better: Mapping[str, Better]) -> str | None:
    """The metric that examples are told apart by: the first of those that are shown first."""
    known = [metric for metric in (*FIRST, *metrics) if metric in metrics and metric in better]
    return known[0] if known else None


def _changed(
    pairs: Sequence[tuple[ExampleRow, ExampleRow]], main: str | None, better: Mapping[str, Better]
) -> list[tuple[ExampleRow, ExampleRow]]:
    """The examples whose main metric differs, those that became worse first, the largest first."""
    if main is None:
        return []
    sign = 1 if better[main] == "min" else -1
    found = []
    for first, second in pairs:
        if main in first.sums and main in second.sums:
            one, two = first.sums[main], second.sums[main]
            if one[1] and two[1] and (change := two[0] / two[1] - one[0] / one[1]):
                found.append((-sign * change, first, second))
    found.sort(key=lambda one: (one[0], one[1].id))
    return [(first, second) for _, first, second in found]


def _remarks(first: EvaluationRecord, second: EvaluationRecord) -> tuple[str, ...]:
    found = []
    if first.model.fingerprint == second.model.fingerprint:
        found.append("Both are the same weights: only times can differ.")
    timed = any(metric in TIMED for one in first.evaluators.values() for metric in one.values)
    if timed and first.device != second.device:
        found.append(
            f"Times are of different devices ({first.device}, and {second.device}): they compare "
            "machines as well as models."
        )
    if first.precision != second.precision:
        found.append(f"Precisions differ: {first.precision}, and {second.precision}.")
    if first.final or second.final:
        found.append("A test split was read: what is chosen by this comparison is chosen on it.")
    return tuple(found)

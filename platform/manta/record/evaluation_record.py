"""The result of an evaluation: what was measured of which model on which data, example by example.

A metric over examples is a ratio of two sums over them, which each example's row has. So what is
shown of all examples, of a slice, or of a draw of examples can be computed from the rows again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from manta.config.errors import RunError
from manta.config.metrics import EVALUATION
from manta.config.mistakes import in_a_line
from manta.storage.place import Place, put, tree
from manta.storage.run_folder import EVALUATION as FILE
from manta.storage.run_folder import EVALUATIONS
from manta.storage.seal import read_sealed, seal_text

# By metric: numerator and denominator.
Sums = dict[str, tuple[float, float]]
Better = Literal["min", "max"]


class ExampleRow(BaseModel):
    """What was found of one example.

    Attributes:
        evaluator: name of the evaluator.
        id: name of the example, the same in each evaluation of the data.
        slices: kind of slice → the example's own, such as ``source`` → ``web``.
        sums: metric → what the example adds to its numerator and denominator.
        parts: kind of slice → slice → `sums` of a part of the example, such as its tokens with
            little context.
        shown: texts that people look at, such as prompt and answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluator: str
    id: str
    slices: dict[str, str] = Field(default_factory=dict)
    sums: Sums
    parts: dict[str, dict[str, Sums]] = Field(default_factory=dict)
    shown: dict[str, Any] = Field(default_factory=dict)


class EvaluatorResult(BaseModel):
    """What one evaluator found.

    Attributes:
        type: kind of evaluator, such as ``generations``.
        data: the data that it read, for people.
        data_hash: digest of the data; results of the same data are compared example by example.
        settings: digest of what else decides the values, such as the most tokens of an answer.
        examples: number of examples.
        values: metric → value over all examples.
        better: metric → whether less or more of it is better; without those where neither is.
        slices: kind of slice → slice → metric → value.
        sizes: kind of slice → slice → number of examples that are at least partly in it.
        curves: points to draw, by name.
        remarks: sentences on what the values don't say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    data: str
    data_hash: str
    settings: str
    examples: int
    values: dict[str, float]
    better: dict[str, Better] = Field(default_factory=dict)
    slices: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = Field(default_factory=dict)
    curves: dict[str, list[list[float]]] = Field(default_factory=dict)
    remarks: list[str] = Field(default_factory=list)


class EvaluatedFacts(BaseModel):
    """The model that was evaluated.

    Attributes:
        place: folder or URL.
        run: name of the run; "" for an exported folder.
        step: step of the checkpoint; None for an exported folder.
        tokens: number of tokens that it was trained on, if known.
        parameters: number of weights.
        fingerprint: SHA-256 of names, types, shapes and values of all weights.
        checkpoint: stamp of the checkpoint, which differs from that of any other; "" if unknown.
    """

    place: str
    run: str = ""
    step: int | None = None
    tokens: int | None = None
    parameters: int
    fingerprint: str
    checkpoint: str = ""


class EvaluationRecord(BaseModel):
    """The whole of `evaluation.json`."""

    format: Literal[2] = 2
    name: str
    created: str
    manta_version: str
    model: EvaluatedFacts
    evaluators: dict[str, EvaluatorResult]
    final: bool = Field(default=False, description="whether a test split was read")
    beside: bool = Field(default=False, description="whether it was made beside the run's training")
    test_split_before: int = Field(
        default=0, description="times that a test split had been read for this run before"
    )
    device: str
    precision: str
    seconds: float
    packages: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    git: dict[str, Any] | None = None
    config: dict[str, Any]
    examples_file: str
    examples_sha256: str

    def history_row(self) -> dict[str, Any]:
        """The result as a row of its run's history, without slices."""
        values = {
            f"{name}/{metric}": value
            for name, result in self.evaluators.items()
            for metric, value in result.values.items()
        }
        model = self.model
        return {"step": model.step, "tokens": model.tokens, EVALUATION: self.name, **values}

    def values(self) -> dict[str, float]:
        """All metrics as ``EVALUATOR/METRIC``, and those of slices with ``[KIND=SLICE]``."""
        found = dict[str, float]()
        for name, result in self.evaluators.items():
            found |= {f"{name}/{metric}": value for metric, value in result.values.items()}
            for kind, slices in result.slices.items():
                for one, values in slices.items():
                    found |= {f"{name}/{m}[{kind}={one}]": value for m, value in values.items()}
        return found


# ------------------------------------------------------------------------------------ aggregation


def ratios(sums: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Each metric over some examples: the sum of its numerators over that of its denominators.

    Sums are exact (`math.fsum`), so that the order of examples makes no difference.
    """
    added: dict[str, tuple[list[float], list[float]]] = {}
    for one in sums:
        for metric, (numerator, denominator) in one.items():
            numerators, denominators = added.setdefault(metric, ([], []))
            numerators.append(numerator)
            denominators.append(denominator)
    found = {}
    for metric, (numerators, denominators) in added.items():
        if total := math.fsum(denominators):
            found[metric] = math.fsum(numerators) / total
    return found


def sums_by_slice(rows: Iterable[ExampleRow]) -> dict[str, dict[str, list[Sums]]]:
    """Kind of slice → slice → the sums of the examples, or parts of them, that are in it."""
    found: dict[str, dict[str, list[Sums]]] = {}
    for row in rows:
        for kind, name in row.slices.items():
            found.setdefault(kind, {}).setdefault(name, []).append(row.sums)
        for kind, parts in row.parts.items():
            for name, sums in parts.items():
                found.setdefault(kind, {}).setdefault(name, []).append(sums)
    return {
        kind: {name: found[kind][name] for name in sorted(found[kind], key=slice_order)}
        for kind in found
    }


def slice_order(name: str) -> tuple[int, str]:
    """A key to sort slices by, which takes buckets such as ``16–31`` by their first number."""
    digits = name.split("–")[0].replace(",", "")
    return (int(digits), name) if digits.isdigit() else (-1, name)


# ------------------------------------------------------------------------------------------ files


def evaluation_folder(model: Place, name: str, step: int | None) -> Place:
    """The folder of an evaluation in that of its model."""
    return model / EVALUATIONS / (name if step is None else f"{name}-step-{step:08d}")


def write_evaluation(folder: Place, record: dict[str, Any], rows: Sequence[ExampleRow]) -> None:
    """Write a result and its examples; an older result in the folder is replaced, whole.

    Args:
        folder: the evaluation's folder.
        record: content of `EvaluationRecord`, without the two keys on its examples.
        rows: the examples.

    Raises:
        RunError: if it can't be written. An older result is still there then.
    """
    lines = "".join(f"{row.model_dump_json(exclude_defaults=True)}\n" for row in rows)
    packed = gzip.compress(lines.encode(), mtime=0)
    digest = hashlib.sha256(packed).hexdigest()
    file = f"examples-{digest[:12]}.jsonl.gz"  # another result's examples have another name
    whole = EvaluationRecord(**record, examples_file=file, examples_sha256=digest)
    before = _examples_before(folder)
    try:
        put(folder / file, packed)
        put(folder / FILE, seal_text(whole.model_dump_json()).encode())
        if before is not None and before != file:
            (folder / before).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder}: the result can't be written: {error}; give another folder with --output"
        ) from None


def _examples_before(folder: Place) -> str | None:
    try:
        return read_evaluation(folder).examples_file
    except RunError:
        return None


def read_evaluation(folder: Place) -> EvaluationRecord:
    """The result in the folder of an evaluation.

    Raises:
        RunError: if there is none, or it is not as it was written.
    """
    path = folder / FILE
    try:
        return EvaluationRecord.model_validate_json(read_sealed(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"{folder}: no evaluation here (there is no {FILE}); make one with 'manta "
            "evaluate MODEL EVAL.yaml'"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: can't be read as an evaluation: {in_a_line(error)}; evaluate again"
        ) from None


def read_examples(folder: Place, record: EvaluationRecord) -> list[ExampleRow]:
    """The examples of a result.

    Raises:
        RunError: if they are not as they were written.
    """
    path = folder / record.examples_file
    try:
        packed = path.read_bytes()
        if hashlib.sha256(packed).hexdigest() != record.examples_sha256:
            raise ValueError("its checksum is not the one in evaluation.json")
        lines = gzip.decompress(packed).decode().splitlines()
        return [ExampleRow.model_validate(json.loads(line)) for line in lines]
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be read: {in_a_line(error)}; evaluate again") from None


def find_evaluation(place: Place, name: str | None = None) -> Place:
    """The folder of an evaluation: itself, or one of a run or exported model.

    Of a run's it is that of the last step that was evaluated, and of several the newest.

    Args:
        place: the folder of an evaluation, or of a model that has some.
        name: name of a model's evaluation; by default any.

    Raises:
        RunError: if there is none.
    """
    if is_evaluation(place):
        return place
    known = evaluations_of(place)
    there = {folder: one for folder, one in known.items() if name in (None, one.name)}
    if not there:
        names = ", ".join(sorted({one.name for one in known.values()}))
        others = f" (it has others: {names})" if names else ""
        raise RunError(
            f"{place}: neither an evaluation nor a model with one"
            f"{f' called {name}' if name else ''}{others}; make it with 'manta evaluate {place} "
            "EVAL.yaml'"
        )
    steps = {folder: one.model.step or 0 for folder, one in there.items()}
    return max(there, key=lambda folder: (steps[folder], there[folder].created, str(folder)))


def is_evaluation(place: Place) -> bool:
    """Whether a place is the folder of an evaluation; not if it can't be read."""
    try:
        return (place / FILE).exists()
    except OSError:
        return False


def evaluations_of(place: Place) -> dict[Place, EvaluationRecord]:
    """The evaluations of a run or exported model: folder → result; damaged ones are left out."""
    folder = place / EVALUATIONS
    try:
        files = sorted(tree(folder))
    except OSError:
        return {}
    found = dict[Place, EvaluationRecord]()
    for file in files:
        name, _, inner = file.rpartition("/")
        if inner == FILE and name:
            with suppress(RunError):
                found[folder / name] = read_evaluation(folder / name)
    return found

"""The decision of a gate, as it lies beside the evaluation that it is about."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from manta.config.errors import RunError
from manta.config.mistakes import in_a_line
from manta.storage.place import Place, put, tree
from manta.storage.run_folder import GATE
from manta.storage.seal import read_sealed, seal_text


class GateCheck(BaseModel):
    """One thing that a gate asked for.

    Attributes:
        metric: metric that was looked at.
        asked: condition on the metric, in words.
        found: value or difference that was found, in words.
        passed: whether the condition holds.
    """

    metric: str
    asked: str
    found: str
    passed: bool


class GateRecord(BaseModel):
    """The whole of the file of a gate's decision.

    Attributes:
        format: version of the file's format.
        name: name of the gate.
        passed: whether all that was asked holds.
        checks: the conditions, each with what was found.
        time: time of the decision in UTC.
        user: name of the user who asked for it.
        host: name of the machine.
        model: place of the model.
        fingerprint: SHA-256 of the model's weights.
        evaluation: digest of the evaluation.
        baseline: digest of the baseline's evaluation; "" without one.
        final: whether a test split was read.
        config: the gate's config.
    """

    format: Literal[2] = 2
    name: str
    passed: bool
    checks: list[GateCheck]
    time: str
    user: str
    host: str
    model: str
    fingerprint: str
    evaluation: str
    baseline: str = ""
    final: bool = False
    config: dict[str, Any] = Field(default_factory=dict)


def write_gate(folder: Place, record: GateRecord) -> Place:
    """Write a decision beside the evaluation; returns the file.

    Raises:
        RunError: if it can't be written.
    """
    path = folder / GATE.format(name=record.name)
    try:
        put(path, seal_text(record.model_dump_json()).encode())
    except OSError as error:
        raise RunError(f"{path}: the decision can't be written: {error}") from None
    return path


def read_gate(path: Place) -> GateRecord:
    """A decision.

    Raises:
        RunError: if it can't be read, or is not as it was written.
    """
    try:
        return GateRecord.model_validate_json(read_sealed(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: can't be read as a gate's decision: {in_a_line(error)}; ask the gate again"
        ) from None


def gates_of(folder: Place) -> list[GateRecord]:
    """The decisions on an evaluation, by name; damaged ones are left out."""
    begin, end = GATE.split("{name}")
    found = []
    for name in sorted(tree(folder)):
        if name.startswith(begin) and name.endswith(end):
            try:
                found.append(read_gate(folder / name))
            except RunError:
                continue
    return found

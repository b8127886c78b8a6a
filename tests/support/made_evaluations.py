"""Evaluations written by hand, of examples that are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manta.config.metrics import EVALUATED
from manta.record.evaluation_record import (
    ExampleRow,
    evaluation_folder,
    ratios,
    sums_by_slice,
    write_evaluation,
)

DATA = "0" * 16


def example(id_: str, success: float, evaluator: str = "answers", **more: Any) -> ExampleRow:
    """A prompt that was answered well or not."""
    shown = {"prompt": f"What is {id_}?", "answer": "right" if success else "wrong"}
    return ExampleRow(
        evaluator=evaluator, id=id_, sums={"success": (success, 1)}, shown=shown, **more
    )


def write_made(
    place: Path,
    rows: Sequence[ExampleRow],
    *,
    name: str = "quality",
    values: Mapping[str, float] | None = None,
    data_hash: str = DATA,
    **changes: Any,
) -> Path:
    """The folder of an evaluation of the model at a place, by one evaluator, `answers`."""
    found = {**ratios(row.sums for row in rows), **(values or {})}
    known = {metric: EVALUATED[metric].best for metric in found if metric in EVALUATED}
    sliced = sums_by_slice(rows)
    result = {
        "type": "generations",
        "data": "prompts.jsonl",
        "data_hash": data_hash,
        "settings": "settings",
        "examples": len(rows),
        "values": found,
        "better": {metric: best for metric, best in known.items() if best},
        "slices": {k: {n: ratios(s) for n, s in one.items()} for k, one in sliced.items()},
        "sizes": {k: {n: len(s) for n, s in one.items()} for k, one in sliced.items()},
    }
    record: dict[str, Any] = {
        "name": name,
        "created": "2030-01-01T00:00:00+00:00",
        "manta_version": "test",
        "model": {"place": str(place), "parameters": 1, "fingerprint": place.name},
        "evaluators": {"answers": result},
        "device": "test",
        "precision": "no",
        "seconds": 1.0,
        "config": {},
        **changes,
    }
    folder = evaluation_folder(place, name, record["model"].get("step"))
    assert isinstance(folder, Path)
    write_evaluation(folder, record, rows)
    return folder

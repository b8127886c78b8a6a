"""The content of `tune.json`: what a tuning was asked, and what it found by now."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from manta.config.errors import RunError
from manta.config.mistakes import in_a_line
from manta.recommend.measured import (
    Confirmed,
    CriticalFound,
    MicroBatchFound,
    RangeFound,
    Saving,
    StepCost,
)
from manta.storage.place import Place, put
from manta.storage.run_folder import TUNING
from manta.storage.seal import read_sealed, seal_text


class TuningState(BaseModel):
    """The whole of `tune.json`.

    `asked` is what decides the runs of the tuning, and `base` the run that is tuned. What a phase
    found is None until it is over. `tokens` are those that each phase trained.
    """

    format: Literal[2] = 2
    name: str
    status: Literal["running", "finished", "interrupted"] = "running"
    asked: dict[str, Any]
    base: dict[str, Any]
    tokens: dict[str, int] = Field(default_factory=dict)
    micro_batch: MicroBatchFound | None = None
    range: RangeFound | None = None
    critical: CriticalFound | None = None
    times: StepCost | None = None
    savings: list[Saving] = Field(default_factory=list)
    confirm: Confirmed | None = None


def write_tuning(place: Place, state: TuningState) -> None:
    """Write `tune.json`, whole or not at all.

    Raises:
        RunError: if it can't be written.
    """
    try:
        put(place / TUNING, seal_text(state.model_dump_json(indent=1)).encode())
    except OSError as error:
        raise RunError(f"{place / TUNING}: can't be written: {error}") from None


def read_tuning(place: Place) -> TuningState | None:
    """The `tune.json` in a folder; None if there is none.

    Raises:
        RunError: if it can't be understood.
    """
    path = place / TUNING
    if not path.exists():
        return None
    try:
        return TuningState.model_validate_json(read_sealed(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: can't be read as a tuning: {in_a_line(error)}; put it back from a copy, or "
            "choose another tuning.name"
        ) from None

"""The content of `sweep.json`: a sweep's question, its trials and their progress."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue, model_validator

from manta.config.errors import RunError
from manta.config.metrics import VAL_LOSS
from manta.config.mistakes import in_a_line
from manta.record.run_state import WandbState
from manta.record.sweep_request import TakenRequest
from manta.storage.atomic import replace_text
from manta.storage.place import Place
from manta.storage.run_folder import RUN, SWEEP
from manta.storage.seal import read_sealed, seal_text

TrialStatus = Literal["waiting", "running", "paused", "finished", "stopped", "diverged", "failed"]


class SweepTokens(BaseModel):
    """Tokens of a sweep: `apart` without sharing, `shared` as planned, `trained` so far."""

    apart: int = 0
    shared: int = 0
    trained: int = 0


class Takeover(BaseModel):
    """The takeover by which a trial replaced `loser` and took over `donor` at a token count."""

    donor: str
    loser: str
    at: int


class SweepTrial(BaseModel):
    """One trial; if it has a parent, it is forked from the parent's checkpoint at `fork_step`.

    `digest` covers all that the trial trains. `tokens` is the number of tokens of its whole
    history that are trained, `value` the metric at its end, `failures` the number of legs that
    failed since it last made progress. `scores` has the metric by the token counts of the rungs
    that it reached, and `passed` the rungs that it passed. `takeover` is set if it took over
    another trial of a population. `stop_asked` says who asked for its stop and when, if somebody
    did.
    """

    name: str
    digest: str = ""
    label: str = ""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    seed: int = 0
    parent: str | None = None
    fork_step: int = 0
    fork_tokens: int = 0
    end_tokens: int = 0
    tokens: int = 0
    value: float | None = None
    failures: int = 0
    scores: dict[int, float] = Field(default_factory=dict)
    passed: list[int] = Field(default_factory=list)
    takeover: Takeover | None = None
    stop_asked: str = ""
    status: TrialStatus
    reason: str = ""


class Suggestion(BaseModel):
    """A suggestion that a searcher made after `told` results, and the trials made of it."""

    params: dict[str, JsonValue]
    trials: list[str]
    told: int


class SweepWandb(WandbState):
    """The sweep's own run in W&B, and the report there, if one could be made."""

    report: str | None = None


class SweepState(BaseModel):
    """The whole of `sweep.json`.

    `suggestions` are those of a searcher that learns. `told` has the results in the order in
    which the searcher was told them: the suggestion's number, and the metric, or None if it
    failed. Replaying both to a new searcher in the same order restores its state, so the searcher
    itself isn't saved. `requests` are the changes that users asked for on the way, with what was
    done; `population` says whether the sweep is population-based training.
    """

    format: Literal[1, 2] = 2
    name: str
    question: str = ""
    metric: str = VAL_LOSS
    mode: Literal["min", "max"] = "min"
    status: Literal["running", "finished", "interrupted", "failed"]
    base: dict[str, Any] = Field(default_factory=dict)
    tokens: SweepTokens = SweepTokens()
    trials: list[SweepTrial] = Field(default_factory=list)
    suggestions: list[Suggestion] = Field(default_factory=list)
    told: list[tuple[int, float | None]] = Field(default_factory=list)
    requests: list[TakenRequest] = Field(default_factory=list)
    population: bool = False
    wandb: SweepWandb | None = None

    @model_validator(mode="after")
    def _known_parents(self) -> SweepState:
        parents = {trial.name: trial.parent for trial in self.trials}
        if len(parents) < len(self.trials):
            counts = Counter(trial.name for trial in self.trials)
            twice = sorted(name for name, count in counts.items() if count > 1)
            raise ValueError(f"trials that are listed twice: {', '.join(twice)}")
        rooted: set[str] = set()
        for name, parent in parents.items():
            if parent is not None and parent not in parents:
                raise ValueError(f"trial {name}: there is no trial '{parent}'")
            way = {name}
            while parent is not None and parent not in rooted:
                if parent in way:
                    raise ValueError(f"trial {name} is forked from itself")
                way.add(parent)
                parent = parents.get(parent)
            rooted |= way
        return self


def write_sweep(folder: Path, state: SweepState) -> str:
    """Write `sweep.json` atomically; returns its text.

    Raises:
        OSError: if the file can't be written.
    """
    text = seal_text(state.model_dump_json())
    replace_text(folder / SWEEP, text)
    return text


def trials_in(folder: Place) -> list[str]:
    """The names of the trials in a sweep's folder that have begun."""
    if not isinstance(folder, Path):
        return sorted(name for name in folder.folders() if (folder / name / RUN).exists())
    return sorted(path.parent.name for path in folder.glob(f"*/{RUN}"))


def read_sweep(folder: Place) -> SweepState:
    """The `sweep.json` of the sweep in `folder`.

    Raises:
        RunError: if it is missing or can't be understood.
    """
    path = folder / SWEEP
    try:
        return SweepState.model_validate_json(read_sealed(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: can't be read as a sweep: {in_a_line(error)}; restore it from a copy, or "
            f"compare the runs in {folder} by their own folders"
        ) from None

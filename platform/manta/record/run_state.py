"""The content of `run.json`: what is known about a run, in one typed document."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from manta.config.errors import RunError
from manta.config.metrics import VAL_LOSS, VAL_LOSS_OF, VAL_TERM
from manta.config.mistakes import in_a_line
from manta.config.objective import NATS
from manta.corpus.length_cost import LengthCosts
from manta.record.alert_record import MOST_ALERTS, AlertCause, RunAlert
from manta.record.number_format import bits_per_byte
from manta.record.row_chain import Mark
from manta.storage.place import Place, put
from manta.storage.run_folder import FORK, RUN
from manta.storage.seal import read_sealed, seal_text

Outcome = Literal["finished", "stopped", "failed", "interrupted"]
Status = Literal["running", "finished", "stopped", "failed", "interrupted"]
MOST_EVENTS = 1000


def utc_now() -> str:
    """The current time in UTC, as run records write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class GroupStart:
    """A worker group that begins to train.

    Attributes:
        world_size: number of workers in the group.
        attempt: the group's number in the run.
        step: number of the last update before the group began.
        tokens: tokens consumed before the group began.
        hardware: description of the devices that the workers compute on.
        source: kind of state that the group continues: `start`, `checkpoint` or `snapshot`.
        noticed: time at which the previous group's end was noticed, in seconds since the epoch.
        hourly: price of all of its devices for an hour; None if they have no price.
    """

    world_size: int
    attempt: int
    step: int
    tokens: int
    hardware: Mapping[str, Any]
    source: str = "start"
    noticed: float | None = None
    hourly: float | None = None


class Group(BaseModel):
    """One worker group from its start to its end.

    `step` and `tokens` are those at which the group began to train, `last_step` and
    `last_tokens` those that it reached; the next group begins earlier if steps were lost. `start`
    has the seconds that the group's start took, by part; `noticed` is the time at which the end of
    the group before was noticed, in seconds since the epoch; `source` is the kind of state that
    the group continued; `snapshot_bytes` is the memory of snapshots on all nodes together.
    `waited` are the seconds before `started` that no group trained, and `first` whether they are
    those of a driver's start; `spent` are the group's own `seconds` by activity; `hourly` is the
    price of its devices for an hour, None where they have none.
    """

    attempt: int
    world_size: int
    devices: float
    step: int
    tokens: int
    last_step: int
    last_tokens: int
    started: str
    ended: str | None = None
    seconds: float = 0.0
    reason: str = ""
    start: dict[str, float] = Field(default_factory=dict)
    source: str = "start"
    noticed: float | None = None
    snapshot_bytes: int = 0
    waited: float = 0.0
    first: bool = False
    spent: dict[str, float] = Field(default_factory=dict)
    hourly: float | None = None


class Totals(BaseModel):
    """Sums over the whole run, all drivers and worker groups together.

    Steps, tokens and samples are progress, so work that was done twice counts once;
    `tokens_again` is the number of tokens trained twice. Seconds and cost count everything.
    """

    steps: int = 0
    tokens: int = 0
    samples: int = 0
    tokens_again: int = 0
    wall_seconds: float = 0.0
    device_seconds: float = 0.0
    cost: float | None = None


class Results(BaseModel):
    """The last and best losses, and the steps whose update was dropped.

    `val_terms` are the means of the objective's terms in the last evaluation, and what follows from
    them, by name; none where the loss is the only one.
    """

    loss: float | None = None
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_val_step: int | None = None
    val_loss_by_source: dict[str, float] = Field(default_factory=dict)
    val_terms: dict[str, float] = Field(default_factory=dict)
    skipped_steps: list[int] = Field(default_factory=list)


class CheckpointState(BaseModel):
    """The newest checkpoint, and how many were written."""

    step: int
    tokens: int
    path: str
    seconds: float
    count: int = 1


class Event(BaseModel):
    """A message about the run for people, with its time and the progress at that time."""

    time: str
    step: int
    tokens: int
    message: str


class WandbState(BaseModel):
    """The Weights & Biases run. Its id is chosen once and kept for good."""

    id: str
    mode: str = "starting"
    url: str | None = None
    folder: str | None = None
    sync_command: str | None = None
    problem: str | None = Field(default=None, description="why uploading was given up")


def sync_command(folder: str) -> str:
    """The shell command that uploads the offline files of a W&B run."""
    return f"wandb sync {shlex.quote(folder)}"


class Fork(BaseModel):
    """The origin of a forked run: `run` trained its history up to `step`.

    `before` has the forks of that run itself, from the root on. A fork by `manta fork` has the
    keys that it changed (`changes`), and the digest of the only config that it may train with
    (`binding`).
    """

    run: str
    step: int
    tokens: int
    before: list[Fork] = Field(default_factory=list)
    eval_sample: str = Field(default="", description="digest of the samples of evaluations")
    history: Mark = Field(default_factory=Mark, description="mark after the rows up to the fork")
    changes: list[str] = Field(
        default_factory=list, description="keys that differ from the parent's"
    )
    binding: str = Field(default="", description="the fork's RunState.binding")
    held_otherwise: bool = Field(
        default=False, description="whether its frozen weights are held in another format"
    )
    base: str = Field(default="", description="fingerprint of their model, if they are")


class RunState(BaseModel):
    """The whole of `run.json`."""

    format: Literal[1, 2] = 2
    name: str
    status: Status = "running"
    reason: str = ""
    created: str
    updated: str
    ended: str | None = None
    drivers: int = Field(default=1, description="how many drivers have run it")
    manta_version: str
    corpus: str
    corpus_fingerprint: str
    binding: str = Field(
        default="", description="digest of config and corpus; see record/identity.py"
    )
    once_bound: str = Field(default="", description="the same digest, by an older version's rules")
    frozen: str = Field(
        default="", description="fingerprint of the frozen model that the objective compares with"
    )
    base: str = Field(
        default="", description="fingerprint of the model some of whose weights stay frozen"
    )
    loss_is: str = Field(default=NATS, description="unit of the loss, or what it is a mean over")
    ledger_digest: str | None = None
    eval_sample: str = Field(default="", description="digest of the samples of evaluations")
    eval_from: int = Field(default=0, description="first step that is evaluated on eval_sample")
    total_steps: int
    total_tokens: int
    val_tokens_per_byte: float | None = Field(
        default=None,
        description="the validation split's ratio, where the bytes of its text are known",
    )
    length_cost: LengthCosts | None = Field(
        default=None, description="records of the corpus that are longer than a row"
    )
    git: dict[str, Any] | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    totals: Totals = Field(default_factory=Totals)
    results: Results = Field(default_factory=Results)
    groups: list[Group] = Field(default_factory=list)
    checkpoint: CheckpointState | None = None
    events: list[Event] = Field(default_factory=list)
    alerts: list[RunAlert] = Field(
        default_factory=list, description="what people were alerted of, once for each cause"
    )
    final: dict[str, Any] = Field(default_factory=dict)
    fork: Fork | None = None
    skips: list[tuple[int, int]] = Field(
        default_factory=list, description="ranges of steps left out by rewinds: (first, last)"
    )
    wandb: WandbState
    history: Mark = Field(default_factory=Mark)

    @property
    def restarts(self) -> int:
        """Number of restarts of the workers."""
        return max(0, len(self.groups) - 1)

    @property
    def world_sizes(self) -> list[int]:
        """The run's world sizes in order of time, without immediate repeats."""
        sizes: list[int] = []
        for group in self.groups:
            if not sizes or sizes[-1] != group.world_size:
                sizes.append(group.world_size)
        return sizes

    def take_results(self, row: Mapping[str, Any]) -> None:
        """Update `results` with the losses of a row of metrics."""
        results = self.results
        if row.get("loss") is not None:
            results.loss = row["loss"]
        value = row.get(VAL_LOSS)
        if value is not None and row["step"] >= self.eval_from:
            results.val_loss = value
            results.val_loss_by_source = {
                key.removeprefix(VAL_LOSS_OF): loss
                for key, loss in row.items()
                if key.startswith(VAL_LOSS_OF) and loss is not None
            }
            results.val_terms = {
                key.removeprefix(VAL_TERM): mean
                for key, mean in row.items()
                if key.startswith(VAL_TERM) and mean is not None
            }
            if results.best_val_loss is None or value < results.best_val_loss:
                results.best_val_loss, results.best_val_step = value, row["step"]

    def bits_per_byte(self, val_loss: float | None) -> float | None:
        """A validation loss as bits a byte of text; None where either is unknown."""
        if val_loss is None or self.val_tokens_per_byte is None:
            return None
        return bits_per_byte(val_loss, self.val_tokens_per_byte)

    def add_event(self, message: str) -> None:
        """Add `message` with the current time, step and tokens."""
        event = Event(
            time=utc_now(), step=self.totals.steps, tokens=self.totals.tokens, message=message
        )
        self.events = [*self.events, event][-MOST_EVENTS:]

    def add_alert(self, about: AlertCause, message: str) -> RunAlert | None:
        """Add an alert; None if there was one of this cause, or too many of its kind."""
        causes = [one.cause for one in self.alerts if one.kind == about.kind]
        if about.cause in causes or len(causes) >= MOST_ALERTS:
            return None
        totals = self.totals
        alert = RunAlert(
            kind=about.kind,
            cause=about.cause,
            message=message,
            time=utc_now(),
            step=totals.steps,
            tokens=totals.tokens,
        )
        self.alerts = [*self.alerts, alert]
        return alert


def write_fork(run_dir: Place, fork: Fork) -> None:
    """Write the origin of a forked run into its folder."""
    put(run_dir / FORK, seal_text(fork.model_dump_json()).encode())


def read_fork(run_dir: Place) -> Fork | None:
    """The origin that `write_fork` wrote; None if there is none.

    Raises:
        RunError: if the file can't be understood.
    """
    path = run_dir / FORK
    try:
        return Fork.model_validate_json(read_sealed(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: can't be read: {in_a_line(error)}; restore it from a copy, or remove the "
            "run's folder to start anew"
        ) from None


def read_state(run_dir: Place) -> RunState:
    """The `run.json` of the run in `run_dir`.

    Raises:
        RunError: if the file is missing or can't be understood.
    """
    state = read_state_if_any(run_dir)
    if state is None:
        raise RunError(f"{run_dir}: no run here: there is no {RUN}; give the folder of a run")
    return state


def read_state_if_any(run_dir: Place) -> RunState | None:
    """The `run.json` in `run_dir`; None if there is none.

    Raises:
        RunError: if the file can't be understood.
    """
    path = run_dir / RUN
    try:
        return RunState.model_validate_json(read_sealed(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # Pydantic's error is a ValueError
        raise RunError(
            f"{path}: can't be read as a run record: {in_a_line(error)}; it was changed or made "
            "by another version: restore it from a copy, or choose another run.name. If you "
            "remove the file, the run continues, but its earlier times and costs are lost"
        ) from None

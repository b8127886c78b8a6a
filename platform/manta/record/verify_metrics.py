"""Check that `metrics.jsonl` has the rows that it must have, with the values of the schedule."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from manta.config.errors import RunError
from manta.config.metrics import EVALUATION, SEQ_LEN
from manta.config.run import RunConfig
from manta.record.checked_rows import TRIES, Line, RowReader
from manta.record.evaluation_record import evaluation_folder, read_evaluation
from manta.record.history import kind_of
from manta.record.row_chain import Kind
from manta.record.run_state import read_state
from manta.schedule import Schedule
from manta.schedule.due import due
from manta.schedule.lengths import Lengths
from manta.storage.place import Place
from manta.storage.run_folder import METRICS
from manta.stream.mixed_sources import tokens_by_source
from manta.stream.order import Order

# Kinds of rows that must be there once training has passed their step.
KINDS: tuple[Kind, ...] = ("training", "validation")
# Missing steps that a message names. One more is kept, to know that there are more.
MOST_SHOWN = 8


class Due:
    """Compares the steps that must have a row, by the config, with those that have one."""

    def __init__(
        self,
        config: RunConfig,
        schedule: Schedule,
        steps: range,
        carried: Iterable[Mapping[str, Any]],
    ):
        """Start before the first row.

        Args:
            config: the run's config.
            schedule: the run's resolved schedule.
            steps: the steps that were trained, and must have rows.
            carried: the rows that checkpoints carry: a step with one of them is not missing.
        """
        self._config, self._schedule = config, schedule
        self._carried = {(kind_of(row), int(row["step"])) for row in carried}
        self._coming = {kind: self._steps(kind, steps) for kind in KINDS}
        self._next = {kind: next(coming, None) for kind, coming in self._coming.items()}
        self.missing: dict[Kind, list[int]] = {kind: [] for kind in KINDS}

    def _steps(self, kind: Kind, steps: range) -> Iterator[int]:
        for number in steps:
            work = due(self._schedule.step(number - 1), self._config, self._schedule)
            if work.logs if kind == "training" else work.evaluates:
                yield number

    def take(self, kind: Kind, step: int) -> None:
        """Take the next row, whose step is above the last one of its kind."""
        if kind not in KINDS:
            return
        self._pass(kind, step)
        if self._next[kind] == step:
            self._next[kind] = next(self._coming[kind], None)

    def close(self) -> None:
        """Take the end of the rows."""
        for kind in KINDS:
            self._pass(kind, None)

    def _pass(self, kind: Kind, until: int | None) -> None:
        while (step := self._next[kind]) is not None and (until is None or step < until):
            if (kind, step) not in self._carried and len(self.missing[kind]) <= MOST_SHOWN:
                self.missing[kind].append(step)
            self._next[kind] = next(self._coming[kind], None)


@dataclass(frozen=True)
class Plan:
    """What gives the values that rows must have.

    Attributes:
        schedule: the run's resolved schedule.
        order: the order of its samples.
        clock: tokens that a sample counts as.
        lengths: lengths of the rows that the model saw.
    """

    schedule: Schedule
    order: Order
    clock: int
    lengths: Lengths


def check_rows(
    run: Place, plan: Plan, after: int, open_due: Callable[[], Due]
) -> dict[Kind, list[int]]:
    """Compare a run's rows with its record and its plan, from the first to the last.

    Args:
        run: the run's folder, or its URL in a store.
        plan: schedule and sample order, which give values of its rows.
        after: last step that another run trained, by another schedule; 0 if there is none.
        open_due: makes a new `Due` to compare the rows with, once for each reading.

    Returns:
        Kind of row → the first steps that must have a row and have none.

    Raises:
        RunError: naming the first line that differs, and how.
    """
    for left in reversed(range(TRIES)):
        mark, missing = read_state(run).history, open_due()
        problem = _problem(RowReader(run, mark), run, plan, after, missing)
        if not problem:
            return missing.missing
        if not left or read_state(run).history == mark:
            break
    raise RunError(
        f"{run / METRICS}: {problem}; restore the file from a copy, or continue the run with "
        "`manta train`: it accepts the rows as they are, adds those that a checkpoint has, and "
        "notes that in the run"
    )


def _problem(reader: RowReader, run: Place, plan: Plan, after: int, due: Due) -> str:
    last: dict[Kind, int] = {}
    for line in reader.lines():
        kind, step = _checked(line, run / METRICS, plan, after)
        if step <= last.get(kind, -1):
            raise RunError(
                f"{run / METRICS}:{line.number}: step {step} is out of order: it must be above the "
                "step of the row before; restore the file from a copy"
            )
        last[kind] = step
        due.take(kind, step)
    due.close()
    return reader.problem()


def _checked(line: Line, path: Place, plan: Plan, after: int) -> tuple[Kind, int]:
    """The kind and step of a row, whose values must be those that the plan gives."""
    row, schedule = line.row, plan.schedule
    try:
        step = operator.index(row["step"]) if row is not None else -1
    except TypeError:
        step = -1
    if row is None or step < 0:
        raise RunError(
            f"{path}:{line.number}: not a row of metrics: restore the file from a copy, or "
            "continue the run with `manta train`, which moves the line to another file"
        )
    kind, where = kind_of(row), f"{path}:{line.number}: step {step}"
    if step > schedule.steps:
        raise RunError(
            f"{where}: the schedule ends with step {schedule.steps}; restore the file from a copy"
        )
    done = schedule.step(step - 1) if step else None
    expected: dict[str, Any] = {"tokens": done.tokens_after if done else 0}
    if kind == "training" and done is not None:
        expected["batch_size"] = done.batch_size
        end = done.first_position + done.batch_size
        expected |= tokens_by_source(plan.order, end, plan.clock)
        if step > after:
            expected |= {"lr": done.lr, SEQ_LEN: plan.lengths.at(done.tokens)}
    if kind == "evaluation" and step > after:
        expected |= _of_result(path.parent, str(row[EVALUATION]), step, where)
    for key, value in expected.items():
        if row.get(key, value) != value:
            by = "its result has" if kind == "evaluation" else "the config gives"
            raise RunError(
                f"{where}: {key} is {row[key]}, but {by} {value}: the row was "
                "changed, or is another run's; restore the file from a copy"
            )
    return kind, step


def _of_result(run: Place, name: str, step: int, where: str) -> dict[str, Any]:
    """What a row of an evaluation beside training must have, by the result that it is of."""
    try:
        found = read_evaluation(evaluation_folder(run, name, step))
    except RunError as error:
        raise RunError(f"{where}: the result that the row is of can't be read: {error}") from None
    # One that was made by hand later has replaced it, and has other times at least.
    return found.history_row() if found.beside else {}

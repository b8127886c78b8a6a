"""Are the rows of `metrics.jsonl` those that a run must have, and do they say what they must?"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from manta.config.errors import RunError
from manta.config.run import RunConfig
from manta.schedule import Schedule
from manta.storage.place import Place
from manta.track.history import METRICS, Kind, kind_of

Row = Mapping[str, Any]


class Line(NamedTuple):
    """A row and where it stands."""

    number: int
    row: Row


def read_lines(run: Place) -> Iterator[Line]:
    """The rows of a run; a last line that isn't finished is none.

    Raises:
        RunError: naming the first line that is damaged.
    """
    path = run / METRICS
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            row = json.loads(line)
            row = {**row, "step": operator.index(row["step"])}
        except (ValueError, LookupError, TypeError):
            if not line.endswith(b"\n"):
                return
            raise RunError(
                f"{path}:{number}: not a row of metrics: put the file back from a copy, or give "
                "the command that trains the run: it sets the line aside"
            ) from None
        yield Line(number, row)


def check_rows(
    run: Place, lines: Iterable[Line], schedule: Schedule, after: int
) -> dict[Kind, set[int]]:
    """Compare rows with the schedule; returns the steps that have a row of each kind.

    Args:
        run: the run's folder.
        lines: its rows.
        schedule: its schedule.
        after: rows up to this step are another run's, by another schedule.

    Raises:
        RunError: naming the first line that differs, and how.
    """
    seen: dict[Kind, set[int]] = {"training": set(), "validation": set()}
    for number, row in lines:
        step, kind = row["step"], kind_of(row)
        where = f"{run / METRICS}:{number}: step {step}"
        if step in seen[kind] or step < max(seen[kind], default=0):
            raise RunError(f"{where}: its place is before that of the row before it")
        seen[kind].add(step)
        if step > schedule.steps:
            raise RunError(f"{where}: the schedule ends with step {schedule.steps}")
        done = schedule.step(step - 1) if step else None
        expected: dict[str, Any] = {"tokens": done.tokens_after if done else 0}
        if kind == "training" and done is not None:
            expected["batch_size"] = done.batch_size
            if step > after:
                expected["lr"] = done.lr
        for key, value in expected.items():
            if row.get(key, value) != value:
                raise RunError(
                    f"{where}: {key} is {row[key]}, but the config gives {value}: the row was "
                    "changed, or is another run's; put the file back from a copy"
                )
    return seen


def missing(
    seen: Mapping[Kind, set[int]], config: RunConfig, schedule: Schedule, steps: range
) -> dict[Kind, list[int]]:
    """The steps that must have a row by the config, and have none."""
    end = schedule.positions * schedule.seq_len
    ends = {schedule.reaching(tokens) for tokens in config.eval.at if tokens <= end}
    due: dict[Kind, list[int]] = {"training": [], "validation": []}
    evaluates = config.eval.every is not None or config.eval.at
    for number in steps:
        step = schedule.step(number - 1)
        last = number == schedule.steps
        if last or number == 1 or _due(config.log.every, step.tokens, step.tokens_after):
            due["training"].append(number)
        if evaluates and (
            last or number in ends or _due(config.eval.every, step.tokens, step.tokens_after)
        ):
            due["validation"].append(number)
    return {kind: [step for step in found if step not in seen[kind]] for kind, found in due.items()}


def _due(every: int | None, tokens: int, after: int) -> bool:
    """As the loop has it: whether a multiple of `every` tokens lies in a step."""
    return every is not None and (every == 0 or tokens // every < after // every)

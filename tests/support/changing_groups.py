"""Processes that train in one group after the other without leaving the process, as on Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from plain_runs import Rows, run_ranks, streams_of

from manta.elastic.checks.preflight import Checked
from manta.elastic.worker.train_function import prepared_engine
from manta.model import hf_config
from manta.parallel.ranks import is_severed
from manta.schedule import Step
from manta.state.handover import LiveState, hand_over
from manta.stream.plan import RankBatch
from manta.train.engine import Engine
from manta.train.group_end import leave_group
from manta.train.log_rows import AwaitedRow
from manta.train.loop import Loop
from manta.train.pause import Pause


@dataclass(frozen=True)
class Group:
    """One group of processes.

    Attributes:
        members: numbers of the processes, in the order of their ranks.
        dies: number of the process that is lost; None if all are asked to leave, or to the end.
        step: the step before which that happens; None for the end of the run.
        point: where it is lost: before the step, in the evaluation after it, or once its update is
            made and before its row of metrics is.
    """

    members: tuple[int, ...]
    dies: int | None = None
    step: int | None = None
    point: Literal["before", "evaluation", "row"] = "before"


class _Lost(Exception):
    """Stands for the death of a process, whose connections close."""


def train_in_groups(checked: Checked, groups: list[Group]) -> list[dict[str, Any]]:
    """Train a run in several groups, one after the other; returns what was reported."""
    checked.run_dir.mkdir(parents=True, exist_ok=True)
    processes = 1 + max(member for group in groups for member in group.members)
    run_ranks(processes, _life, checked, groups)
    return _as_recorded(checked.run_dir / "rows.jsonl")


def _as_recorded(told: Path) -> list[dict[str, Any]]:
    """The rows that were told, and those that a later group brought along, as a record has them."""
    found: list[dict[str, Any]] = []
    for line in told.read_text().splitlines():
        row = json.loads(line)
        known = {_kind(each) for each in found}
        found += [brought for brought in row.get("carried", ()) if _kind(brought) not in known]
        found.append(row)
    return found


def _kind(row: dict[str, Any]) -> tuple[int | None, bool]:
    """What there is one row of: the training of a step, or an evaluation after it."""
    return row.get("step"), "val_loss" in row


def _life(checked: Checked, groups: list[Group]) -> None:
    """What one process does."""
    me = dist.get_rank()
    dist.barrier()  # all are connected
    dist.destroy_process_group()
    torch.compiler.set_default_backend("aot_eager")
    process = _Process(checked, me)
    for number, group in enumerate(groups):
        if me in group.members:
            _note_graphs(checked, f"graphs-before-{me}")
            process.train_in(number, group)
        elif any(me in later.members for later in groups[number + 1 :]):
            process.stand_by()
    _note_graphs(checked, f"graphs-{me}")
    # `run_ranks` destroys the group that it made.
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def _note_graphs(checked: Checked, name: str) -> None:
    """Write down how many graphs this process has compiled so far."""
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    (checked.run_dir / name).write_text(str(graphs))


class _Process:
    """One process, with what it keeps between two groups."""

    def __init__(self, checked: Checked, me: int):
        self._checked, self._me = checked, me
        self.engine: Engine | None = None
        self.live: LiveState | None = None

    def stand_by(self) -> None:
        """Be a spare for the next group, as on Ray: a new process that has made its engine."""
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            os.environ.pop(name, None)
        self.engine, self.live = prepared_engine(self._checked), None

    def train_in(self, number: int, group: Group) -> None:
        run = self._checked
        rank, size = group.members.index(self._me), len(group.members)
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
        dist.init_process_group(
            "gloo",
            init_method=f"file://{run.run_dir}/meet-{number}",
            rank=rank,
            world_size=size,
        )
        engine = self._engine(joins=number > 0)
        handed = self._handed(engine) if number else None
        rows = Rows(run.run_dir / "rows.jsonl")
        job, passing = run.job(number + 1, "here"), self._passing(group)
        loop = Loop(job, engine, rows, passing=passing, handed=handed, stands=True)
        self.live = self._left(loop, engine, group)
        leave_group(engine, loop)

    def _engine(self, *, joins: bool) -> Engine:
        if self.engine is not None:
            self.engine.rejoin()
            return self.engine
        config = self._checked.config
        resolved = hf_config.resolve(config, self._checked.manifest.vocabulary)
        self.engine = Engine(config, resolved, empty=True, joins=joins)
        return self.engine

    def _handed(self, engine: Engine) -> LiveState | None:
        engine.trained, handed = hand_over(engine.trained, self.live)
        engine.lay()
        assert handed is not None
        return handed

    def _passing(self, group: Group) -> Callable[[str, int], None]:
        def passing(point: str, step: int) -> None:
            if (point, step) == (group.point, group.step):
                self._be_lost(group)

        return passing

    def _be_lost(self, group: Group) -> None:
        if group.dies == self._me:
            raise _Lost

    def _left(self, loop: Loop, engine: Engine, group: Group) -> LiveState | None:
        """What this process has after its time in a group."""
        rank, size = engine.ranks.rank, engine.ranks.world_size

        def streams(cursor: int) -> Generator[RankBatch, None, None]:
            for batch in streams_of(self._checked, rank, size)(cursor):
                if batch.step.number == group.step and group.point == "before":
                    if group.dies is None:
                        engine.pause.ask(Pause.REGROUP)
                    self._be_lost(group)
                yield batch

        if group.point == "row":
            queue = loop._rows.queue

            def queued(step: Step, *more: Any, **asked: Any) -> AwaitedRow:
                if step.number == group.step:
                    self._be_lost(group)
                return queue(step, *more, **asked)

            loop._rows.queue = queued  # type: ignore[method-assign]
        try:
            loop.run(streams)
        except _Lost:
            self.engine = None
            return None
        except RuntimeError as error:
            if not is_severed(error):
                raise
        return loop.live_state()

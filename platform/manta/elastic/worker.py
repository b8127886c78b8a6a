"""What runs in each Ray Train worker."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import torch
from ray.actor import ActorHandle

from manta.config.errors import MantaError
from manta.elastic.order import Order
from manta.stream import pipeline
from manta.stream.plan import RankBatch
from manta.train import model_config
from manta.train.checkpoint import TrainState
from manta.train.engine import Engine
from manta.train.loop import Job, Loop, Source

log = logging.getLogger(__name__)


def train(order: Order) -> None:
    """Train as one rank of the group, from wherever the run's checkpoints end.

    Raises:
        MantaError: which the driver has been told, so that nobody tries again.
    """
    mailbox, checked = order.mailbox, order.checked
    entered = time.time()
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    attempt, failure = ray.train.collective.broadcast_from_rank_zero(
        _begin(mailbox) if first else None
    )
    if failure:
        return  # the driver has the reason; a clean return ends the group
    _set_threads()
    if first:
        _forward_warnings(mailbox)
    try:
        resolved = model_config.resolve(checked.config, checked.manifest.vocab_size)
        engine = Engine(checked.config, resolved)
        job = Job(
            checked.config,
            checked.schedule,
            checked.corpus,
            checked.validation,
            checked.run_dir,
            attempt,
        )
        starts = {
            "driver": order.driver_seconds,
            "workers": entered - order.requested,
            "model": time.time() - entered,
        }
        reporter = _MailReporter(mailbox, attempt, engine.world_size, starts)

        def streams(cursor: int) -> Generator[RankBatch, None, None]:
            return pipeline.stream(
                checked.corpus,
                checked.schedule,
                cursor=cursor,
                rank=engine.rank,
                world_size=engine.world_size,
            )

        outcome = Loop(job, engine, reporter).run(streams)
    except MantaError as error:
        # Trying again would meet the same: say so before the group falls apart.
        ray.get(mailbox.fail.remote(str(error)))
        raise
    if first:
        ray.get(mailbox.put.remote("outcome", {"outcome": outcome}))


def _begin(mailbox: ActorHandle) -> tuple[int, str | None]:
    attempt = ray.get(mailbox.begin_attempt.remote())
    return attempt, ray.get(mailbox.failure.remote())


def _set_threads() -> None:
    """As many threads as the worker was given CPUs; Ray's own default is one."""
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))


class _MailReporter:
    """The engine's reporter, by mail to the driver. Used on the first rank alone."""

    def __init__(
        self, mailbox: ActorHandle, attempt: int, world_size: int, starts: dict[str, float]
    ):
        self._mailbox, self._attempt, self._world_size = mailbox, attempt, world_size
        self._starts, self._stepped = starts, False
        self._since = time.time()

    def resumed(self, state: TrainState, rows: list[dict[str, Any]], *, source: Source) -> None:
        """The group is formed and knows where it goes on."""
        self._starts["state"] = self._lap()
        content = {
            "world_size": self._world_size,
            "attempt": self._attempt,
            "step": state.step,
            "tokens": state.tokens,
            "rows": rows,
            "hardware": hardware(),
            "starts": self._starts,
        }
        self._mailbox.put_rows.remote(self._attempt, len(rows), "started", content)

    def recorded(self) -> int:
        """How many rows are on the driver's disk. A round trip, once a checkpoint."""
        rows: int = ray.get(self._mailbox.recorded.remote(self._attempt))
        return rows

    def metrics(self, row: Mapping[str, Any]) -> None:
        """A row of metrics."""
        if "loss" in row and not self._stepped:
            self._stepped = True
            self._put("first_step", data_and_first_step=self._lap())
        elif not self._stepped:
            self._put("first_step", first_evaluation=self._lap())
        self._mailbox.put_rows.remote(self._attempt, 1, "metrics", dict(row))

    def checkpoint(self, state: TrainState, path: Path, seconds: float) -> None:
        """A checkpoint is whole."""
        self._put("checkpoint", state=asdict(state), path=str(path), seconds=seconds)

    def _lap(self) -> float:
        """Seconds since the last call."""
        before, self._since = self._since, time.time()
        return self._since - before

    def _put(self, kind: str, **content: Any) -> None:
        self._mailbox.put.remote(kind, content)


def hardware() -> dict[str, Any]:
    """What this worker computes on."""
    found: dict[str, Any] = {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


class _MailHandler(logging.Handler):
    """Warnings of the engine, to the person at the driver."""

    def __init__(self, mailbox: ActorHandle):
        super().__init__(logging.WARNING)
        self._mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        self._mailbox.put.remote("note", {"message": record.getMessage()})


def _forward_warnings(mailbox: ActorHandle) -> None:
    logging.getLogger("manta").handlers = [_MailHandler(mailbox)]

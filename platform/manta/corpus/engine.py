"""One pass over work units on Ray Data."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from manta.config.errors import CorpusError

# A block is what Ray Data hands to a worker. Above this many, a block holds several units,
# because each one costs the driver about a millisecond to set up.
MANY_BLOCKS = 4096
Task = Callable[[dict[str, Any]], dict[str, Any]]


def run(task: Task, orders: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Do `task` for each order on all CPUs of the cluster; results come as they are done.

    Orders and results are plain JSON values. Workers are actors rather than tasks: they keep
    the next order at hand, where a task leaves its CPU idle for about 0.2 s before the next.

    Raises:
        CorpusError: the first that a task raised, without Ray's traceback around it.
    """
    if not orders:
        return
    with _quiet() as context, DataContext.current(context):
        rows = [{"order": json.dumps(order)} for order in orders]
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MANY_BLOCKS))
        workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), len(rows)))
        pool = ActorPoolStrategy(
            min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=2
        )
        done = dataset.map(_worker(task), compute=pool)
        # One result a block: none waits for another one to be finished.
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for text in batch.column("result").to_pylist():
                yield _opened(json.loads(text))


def _worker(task: Task) -> type:
    class Worker:
        """Runs one order after the other in one process."""

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            try:
                result: dict[str, Any] = {"value": task(json.loads(row["order"]))}
            except CorpusError as error:
                # As a value, because Ray would wrap an exception into a traceback of its own.
                result = {"error": str(error)}
            return {"result": json.dumps(result)}

    Worker.__name__ = task.__name__
    return Worker


def _opened(result: dict[str, Any]) -> dict[str, Any]:
    if "error" in result:
        raise CorpusError(result["error"])
    value: dict[str, Any] = result["value"]
    return value


@contextlib.contextmanager
def _quiet() -> Iterator[DataContext]:
    """Ray Data without bars and reports of its own: the user sees ours."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Each result is a block of its own, passed on as soon as it is there.
    context.target_max_block_size = 1
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield context
    finally:
        log.setLevel(level)

"""Functions that Ray calls in a worker's process, before, during and after a run.

Light to import: Ray Train's controller unpickles it too, and would otherwise import the whole
training stack, which it does not need, before it starts the first worker. So each function
imports what it needs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ray.train.v2._internal.execution.context import get_train_context

from manta.config.errors import ErrorReport, MantaError
from manta.elastic.messages import group_start
from manta.elastic.worker import connections

if TYPE_CHECKING:
    from manta.elastic.checks.preflight import Checked
    from manta.model.trial_result import Tried


def warm() -> float:
    """Import what training needs; returns the seconds it took."""
    began = time.time()
    with _without_gc():
        import manta.elastic.worker.train_function  # noqa: F401
    # Imports create half a million long-lived objects: GC passes over them would take a quarter of
    # the import time, and every later pass as long.
    gc.freeze()
    return time.time() - began


def try_model(checked: Checked) -> Tried | ErrorReport:
    """The facts about a run's model, or what is wrong with it; imports Torch and Transformers."""
    with _without_gc():
        from manta.elastic.checks import preflight

        try:
            return preflight.try_model(checked)
        except MantaError as error:
            return ErrorReport.of(error)


def work(config: dict[str, Any]) -> None:
    """Train as one rank of the group; Ray Train's entry point."""
    from manta.elastic.worker.train_function import train

    train(config["assignment"])


def retire() -> None:
    """Clear an ended run, so that this process can be a worker of another one."""
    from manta.elastic.worker import survivor
    from manta.train.group_end import leave_group

    survivor.drop()
    leave_group()
    group_start.forget()


def prepare(checked: Checked, micro_batch: int | None) -> None:
    """Make the model of a run, so that a group that this worker joins does not wait for it.

    Args:
        checked: the run.
        micro_batch: most rows that were found to fit in a forward pass; None: as configured.
    """
    from manta.elastic.worker import train_function

    train_function.prepare(checked, micro_batch)


def stand_by(seconds: float, gone: Collection[str]) -> int | None:
    """Have this worker leave its group.

    Args:
        seconds: the time that it has for that.
        gone: IP addresses of nodes that are gone: nothing need be awaited from there.

    Returns:
        The step whose state it still has; None if it has none, and should be ended.
    """
    from manta.elastic.worker import survivor

    connections.shut(gone)
    if _trains() and not group_start.give_up(seconds):
        return None
    group_start.forget()
    return survivor.step()


def _trains() -> bool:
    """Whether a training thread runs here. Internal to Ray Train 2.60."""
    return bool(get_train_context().execution_context.training_thread_runner.is_running())


@contextmanager
def _without_gc() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

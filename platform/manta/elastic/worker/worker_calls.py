"""Functions that Ray calls in a worker's process, before, during and after a run.

Light to import: Ray Train's controller unpickles it too, and would otherwise import the whole
training stack, which it does not need, before it starts the first worker. So each function
imports what it needs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from manta.config.errors import ConfigError, ErrorReport
from manta.elastic.messages import group_start

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
        except ConfigError as error:
            return ErrorReport.of(error)


def work(config: dict[str, Any]) -> None:
    """Train as one rank of the group; Ray Train's entry point."""
    from manta.elastic.worker.train_function import train

    train(config["assignment"])


def retire() -> None:
    """Clear an ended run, so that this process can be a worker of another one."""
    from manta.elastic.worker.train_function import clear

    clear()
    group_start.forget()


@contextmanager
def _without_gc() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

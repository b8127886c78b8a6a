"""What Ray calls in a worker's process, before, for and after a run.

Light to import: it is unpickled in Ray Train's controller as well, which would else import the
whole training stack, for nothing, before it starts the first worker. Each function imports what
it needs.
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
    # Half a million objects that stay: to look for garbage among them, again and again while
    # they are made, is a fourth of the time, and each later look would be as long.
    gc.freeze()
    return time.time() - began


def try_model(checked: Checked) -> Tried | ErrorReport:
    """What is known of the model of a run, or what is wrong; imports what it takes to know."""
    with _without_gc():
        from manta.elastic.checks import preflight

        try:
            return preflight.try_model(checked)
        except ConfigError as error:
            return ErrorReport.of(error)


def work(order: dict[str, Any]) -> None:
    """Train as one rank of the group; the entry point that Ray Train calls."""
    from manta.elastic.worker.train_function import train

    train(order["order"])


def retire() -> None:
    """Forget the run that has ended, so that this process can be a worker of another."""
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

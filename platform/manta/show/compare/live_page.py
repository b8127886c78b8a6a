"""The comparison page of a sweep that runs: written now and then, and loaded again by browsers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from manta.config.errors import MantaError
from manta.storage.run_folder import COMPARISON

log = logging.getLogger(__name__)
EVERY_SECONDS = 30.0
# A page of many long runs takes its time: this share of the driver's time at most.
MOST_TIME = 0.05


class LivePage:
    """Writes the page in a thread of its own while the block runs, and once at its end.

    A block that is over before the first page is due writes none.

    Args:
        folder: the sweep's folder.
        wrote: called with the page after each time that it is written.
        every: seconds between two pages.
    """

    def __init__(
        self,
        folder: Path,
        wrote: Callable[[Path], None] = lambda page: None,
        every: float = EVERY_SECONDS,
    ):
        self._folder, self._wrote, self._every = folder, wrote, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="manta-page", daemon=True)
        self._stale = False

    def __enter__(self) -> LivePage:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._stale:
            self._write(None)

    def _run(self) -> None:
        rest = self._every
        while not self._ended.wait(rest):
            began = time.monotonic()
            self._write(max(1, round(rest)))
            rest = max(self._every, (time.monotonic() - began) / MOST_TIME)

    def _write(self, refresh: int | None) -> None:
        """Write the page; nothing while there is nothing to compare."""
        from manta.show.compare.comparison_page import write_page
        from manta.show.compare.ranking import rank
        from manta.show.compare.reading import load_comparison

        page = self._folder / COMPARISON
        try:
            comparison = load_comparison([self._folder], alive=lambda folder: True)
            write_page(comparison, rank(comparison), page, refresh=refresh)
            self._stale = refresh is not None
            self._wrote(page)
        except (MantaError, OSError):  # no trial has the metric yet, or the disk is full
            return
        except Exception:
            log.exception("the comparison page can't be written; the sweep is not affected")

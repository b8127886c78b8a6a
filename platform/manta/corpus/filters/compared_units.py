"""What a filter that compares documents needs of the units that these are in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.corpus.filters.words import Places
from manta.corpus.worker_pool import Run


@dataclass(frozen=True)
class ComparedUnits:
    """The units of a corpus's input, and how work is done on them.

    Attributes:
        work: folder of unfinished work.
        begins: index of the first document of each unit; the last entry is their number.
        order: function from a unit's number to the order for a worker.
        run: function that does a task for each of some orders.
    """

    work: Path
    begins: Places
    order: Callable[[int], dict[str, Any]]
    run: Run

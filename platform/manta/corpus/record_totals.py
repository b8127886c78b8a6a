"""What the second pass over records found, of all units together; and how they become rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any

from manta.corpus.assemble import Arrange
from manta.corpus.length_cost import LengthCosts, costs_of
from manta.corpus.scan import Located


class RecordTotals(ABC):
    """Records that were encoded, and those that were not, with the reasons.

    Attributes:
        refused: records that can't be used, in the order in which they were added.
    """

    def __init__(self, counted: str) -> None:
        """Count what a unit's record has under the key `counted`."""
        self.refused: list[Located] = []
        self._counts: Counter[str] = Counter()
        self._counted = counted

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the manifest says of the format of samples."""

    @property
    def too_long(self) -> int:
        """How many records are longer than a row, and left out."""
        return self._counts["too_long"]

    @property
    def length_cost(self) -> LengthCosts:
        """What the length of rows costs."""
        return costs_of(self._counts)

    def add(self, record: dict[str, Any], refused: list[Located]) -> None:
        """Take a unit's record, and where those are that it refused."""
        self._counts.update(record[self._counted])
        self.refused += refused

    @abstractmethod
    def check(self, shown: int) -> None:
        """Raise CorpusError if records are lost of which nothing was said, or all are.

        Args:
            shown: most records to name.
        """

    def news(self) -> list[str]:
        """What people should hear of, beside the counts of the manifest."""
        return []


def rows_by(lay: Callable[[Any], Any], length: int) -> Arrange:
    """How the records of a shard become rows of `length` tokens, by a function of their table."""

    def arrange(table: Any) -> tuple[Any, int]:
        rows = lay(table)
        return rows, rows.num_rows * length

    return arrange

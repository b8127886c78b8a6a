"""Progress of a long evaluation: a line now and then, of how far it is and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from manta.record import number_format as words

T = TypeVar("T")
# Seconds between two lines.
EVERY = 15.0


def ticking(
    items: Sequence[T],
    what: str,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """The items, one after the other, with a line on them every 15 seconds.

    Args:
        items: the items.
        what: name of the evaluator, for the line.
        tell: takes a line.
        clock: gives the time in seconds.
    """
    began = said = clock()
    for done, item in enumerate(items):
        now = clock()
        if done and now - said >= EVERY:
            said = now
            left = (now - began) / done * (len(items) - done)
            tell(f"{what}: {done:,} of {len(items):,}, about {words.duration(left)} left")
        yield item

"""Hours against money: what the rest of a run takes with any number of workers. Pure arithmetic.

Workers that wait for each other train less each: with more of them a run ends sooner and costs
more. How much, is fitted to the speeds that were measured: a step of W workers takes a part that
they share and a part that they don't, so that seconds per token are ``a / W + b`` (Amdahl, 1967).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from manta.record.cost_line import cost_line
from manta.record.run_state import RunState

# Options whose money differs by less than this share cost the same: measured speeds say no more.
ALIKE = 0.01
# A group's speed counts once it has trained so many seconds.
FEWEST_SECONDS = 10.0


@dataclass(frozen=True)
class Option:
    """A number of workers, and what is left of the run with them.

    Attributes:
        workers: number of workers.
        hours: hours to the end of the run.
        money: price of the devices for these hours; 0 where they have none.
    """

    workers: int
    hours: float
    money: float


@dataclass(frozen=True)
class Choice:
    """The option to take.

    Attributes:
        option: the option.
        in_time: whether the option ends before the deadline; True without one.
        in_budget: whether the option costs no more than is left; True without a budget.
    """

    option: Option
    in_time: bool
    in_budget: bool


class Speeds:
    """Tokens/s by number of workers, from those that were measured.

    Args:
        measured: number of workers → tokens/s of all of them, positive; at least one entry.
    """

    def __init__(self, measured: Mapping[int, float]):
        shares = [1.0 / workers for workers in measured]
        seconds = [1.0 / speed for speed in measured.values()]
        self._shared, self._fixed = cost_line(shares, seconds)

    def of(self, workers: int) -> float:
        """Tokens/s of so many workers."""
        return 1.0 / (self._shared / workers + self._fixed)


def measured_speeds(state: RunState) -> dict[int, float]:
    """Number of workers → tokens/s, of the groups of a run that trained long enough."""
    tokens, seconds = dict[int, float](), dict[int, float]()
    for group in state.groups:
        trained = group.last_tokens - group.tokens
        if group.seconds < FEWEST_SECONDS or trained <= 0:
            continue
        size = group.world_size
        tokens[size] = tokens.get(size, 0.0) + trained
        seconds[size] = seconds.get(size, 0.0) + group.seconds
    return {size: tokens[size] / seconds[size] for size in tokens}


def options(
    sizes: Iterable[int], tokens: float, speeds: Speeds, hourly: Callable[[int], float]
) -> list[Option]:
    """What so many tokens take with each of some numbers of workers.

    Args:
        sizes: numbers of workers.
        tokens: tokens that are left to train.
        speeds: tokens/s by number of workers.
        hourly: price of an hour of so many workers.
    """
    found = []
    for workers in sizes:
        hours = tokens / speeds.of(workers) / 3600
        found.append(Option(workers, hours, hours * hourly(workers)))
    return found


def choose(found: list[Option], hours: float | None, money: float | None) -> Choice:
    """The option that keeps to a deadline and a budget, as far as one does.

    With a deadline the cheapest that is in time, else the fastest that the budget allows. Where
    none keeps to both, the budget counts; where none keeps to the budget, the cheapest is taken.

    Args:
        found: the options; at least one.
        hours: hours to the deadline; None without one.
        money: money left of the budget; None without one.
    """
    in_budget = [one for one in found if money is None or one.money <= money]
    in_time = [one for one in in_budget if hours is None or one.hours <= hours]
    if hours is not None and in_time:
        least = min(one.money for one in in_time)
        alike = [one for one in in_time if one.money <= least * (1 + ALIKE)]
        return Choice(_fastest(alike), in_time=True, in_budget=True)
    if in_budget:
        return Choice(_fastest(in_budget), in_time=hours is None, in_budget=True)
    best = min(found, key=lambda one: (one.money, one.hours))
    return Choice(best, in_time=hours is None or best.hours <= hours, in_budget=False)


def _fastest(found: list[Option]) -> Option:
    return min(found, key=lambda one: (one.hours, one.workers))

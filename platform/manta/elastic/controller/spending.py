"""How many workers a run may have for its money and its time, decided anew while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from manta.config.cost import CostSection
from manta.record import number_format
from manta.record.alert_record import AlertCause
from manta.record.frontier import Choice, Speeds, choose, options

# Speeds are measured anew all the time: where the present number of workers keeps to budget and
# deadline too, another is taken only if it saves this share of the money, or of the hours.
WORTH_A_CHANGE = 0.05
# Seconds between two decisions.
DECISION_SECONDS = 30.0


class Spending:
    """A run's money and hours, and the number of workers that follows from them.

    Args:
        cost: prices, budget and deadline.
        sizes: smallest and largest number of workers.
        devices: devices of a worker.
        spent: money spent before.
        hours: hours since the run's first start.
        clock: a monotonic clock, in seconds.

    Attributes:
        most: most workers that the run may have.
        alert: cause of an alert that follows from the last decision; None without one.
    """

    def __init__(
        self,
        cost: CostSection,
        sizes: tuple[int, int],
        devices: float,
        *,
        spent: float,
        hours: float,
        clock: Callable[[], float],
    ):
        self._cost, self._sizes, self._devices, self._clock = cost, sizes, devices, clock
        self._spent, self._hours, self._counted = spent, hours, clock()
        self._speeds: dict[int, float] = {}
        self._decided = float("-inf")
        self._told: tuple[int, bool, bool] | None = None
        self.most = sizes[1]
        self.alert: AlertCause | None = None

    @property
    def is_exhausted(self) -> bool:
        """Whether the budget is spent."""
        return self._cost.budget is not None and self._spent >= self._cost.budget

    def count(self, hourly: float) -> None:
        """Count the time since the last call, in which slots of that price an hour were held."""
        now = self._clock()
        hours, self._counted = (now - self._counted) / 3600, now
        self._hours += hours
        self._spent += hours * hourly

    def decide(self, workers: int, rate: float, tokens: int, prices: Sequence[float]) -> str | None:
        """Decide on `most`, now and then.

        Args:
            workers: number of workers now.
            rate: their tokens/s; 0 while unknown.
            tokens: tokens that are left to train.
            prices: price of a worker for an hour in each slot that the run holds, in the order in
                which they are kept. Further slots cost as on a node that nothing is known of.

        Returns:
            The decision and its numbers for people, if it is another one than before.
        """
        if rate <= 0 or not self._cost.chooses:
            return None
        self._speeds[workers] = rate
        if self._clock() - self._decided < DECISION_SECONDS:
            return None
        self._decided = self._clock()
        further = self._cost.highest_price * self._devices

        def hourly(size: int) -> float:
            return sum(prices[:size]) + further * max(0, size - len(prices))

        low, high = self._sizes
        sizes = range(low, high + 1)
        found = options(sizes, tokens, Speeds(self._speeds), hourly)
        best = choose(found, self._hours_left, self._money_left)
        present = [one for one in found if one.workers == workers]
        choice = self._unless_alike(best, choose(present, self._hours_left, self._money_left))
        self.most = choice.option.workers
        return self._news(choice)

    @property
    def _hours_left(self) -> float | None:
        return None if self._cost.deadline is None else self._cost.deadline - self._hours

    @property
    def _money_left(self) -> float | None:
        return None if self._cost.budget is None else self._cost.budget - self._spent

    def _unless_alike(self, best: Choice, present: Choice) -> Choice:
        """The best choice, or the present one if that is nearly as good."""
        if (present.in_time, present.in_budget) != (best.in_time, best.in_budget):
            return best
        saves_money = not best.in_budget or (self._cost.deadline is not None and best.in_time)
        a, b = best.option, present.option
        new, old = (a.money, b.money) if saves_money else (a.hours, b.hours)
        return best if new < old * (1 - WORTH_A_CHANGE) else present

    def _news(self, choice: Choice) -> str | None:
        told = (choice.option.workers, choice.in_time, choice.in_budget)
        if told == self._told:
            return None
        self._told = told
        self.alert = self._alert_of(choice)
        option = choice.option
        said = f"at most {option.workers} workers: {option.hours:.3g} h to the end"
        if self._hours_left is not None:
            said += f", {self._hours_left:.3g} h to the deadline"
        if self._cost.has_price:
            said += f"; {number_format.money(option.money)} to the end"
        if self._money_left is not None:
            said += f", {number_format.money(self._money_left)} left of the budget"
        if not choice.in_budget:
            return f"{said}. The budget does not reach to the end with any number of workers"
        if not choice.in_time:
            return f"{said}. No number of workers that the budget allows is in time"
        return said

    def _alert_of(self, choice: Choice) -> AlertCause | None:
        """What people are alerted of: money or time that will not be enough."""
        if not choice.in_budget:
            return AlertCause("budget", f"budget of {self._cost.budget:g} too small")
        if not choice.in_time:
            return AlertCause("budget", f"deadline of {self._cost.deadline:g} h too early")
        return None

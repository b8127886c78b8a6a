"""Whether more workers are worth a restart. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Growth:
    """The facts that decide whether a run should grow now.

    Attributes:
        workers: number of workers in the group now.
        possible: number of workers that there could be.
        rate: tokens a second of one worker.
        remaining: tokens of the run that are still to be trained.
        stay: seconds that a node usually stays.
        restart: seconds that a restart costs.
        running: seconds since the group began to train.
        settle: fewest seconds that a group trains before it may grow.
    """

    workers: int
    possible: int
    rate: float
    remaining: int
    stay: float
    restart: float
    running: float
    settle: float

    @property
    def horizon(self) -> float:
        """Seconds during which additional workers would train."""
        return min(self.stay, self.remaining / (self.rate * self.possible))

    @property
    def gain(self) -> float:
        """Tokens that additional workers would train during `horizon`."""
        return self.rate * (self.possible - self.workers) * self.horizon

    @property
    def cost(self) -> float:
        """Tokens that the present workers would lose to the restart."""
        return self.rate * self.workers * self.restart

    @property
    def worthwhile(self) -> bool:
        """Whether the gain exceeds the cost, after the settling time."""
        return self.running >= self.settle and self.gain > self.cost

    def explained(self) -> str:
        """The decision and its numbers, for people."""
        if self.worthwhile:
            verdict = f"growing from {self.workers} to {self.possible} workers"
        else:
            verdict = f"staying at {self.workers} workers, {self.possible} are possible"
        return (
            f"{verdict}: {_tokens(self.gain)} to gain in {self.horizon:.0f} s at "
            f"{_tokens(self.rate)}/s per worker, {_tokens(self.cost)} to lose in a restart of "
            f"{self.restart:.1f} s"
        )


def _tokens(amount: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if amount >= size:
            return f"{amount / size:.1f}{unit} tokens"
    return f"{amount:.0f} tokens"

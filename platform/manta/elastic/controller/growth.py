"""Whether more workers are worth a restart. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Growth:
    """What is known when more workers could be had.

    Attributes:
        workers: in the group now.
        possible: there could be.
        rate: tokens a second of one worker.
        remaining: tokens of the run that are still to be trained.
        stay: seconds that a node usually stays.
        restart: seconds that a restart costs.
        running: seconds that the group has trained since its start.
        settle: seconds that a group trains at least before it is changed for a gain.
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
        """Seconds during which the additional workers would be of use."""
        return min(self.stay, self.remaining / (self.rate * self.possible))

    @property
    def gain(self) -> float:
        """Tokens that the additional workers would train in that time."""
        return self.rate * (self.possible - self.workers) * self.horizon

    @property
    def cost(self) -> float:
        """Tokens that the present workers would not train while the group restarts."""
        return self.rate * self.workers * self.restart

    @property
    def worthwhile(self) -> bool:
        """Whether to grow now."""
        return self.running >= self.settle and self.gain > self.cost

    def explained(self) -> str:
        """The decision with its numbers, for people."""
        if self.worthwhile:
            verdict = f"growing from {self.workers} to {self.possible} workers"
        else:
            verdict = f"staying at {self.workers} workers, {self.possible} are possible"
        return (
            f"{verdict}: {_tokens(self.gain)} to gain in {self.horizon:.0f} s at "
            f"{_tokens(self.rate)}/s a worker, {_tokens(self.cost)} to lose in a restart of "
            f"{self.restart:.1f} s"
        )


def _tokens(amount: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if amount >= size:
            return f"{amount / size:.1f}{unit} tokens"
    return f"{amount:.0f} tokens"

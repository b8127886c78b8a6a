"""What the sweeps of a tuning found: plain numbers, as `tune.json` keeps them.

Losses are in nats a token (whatever the objective's validation loss is in), batch sizes in samples.
"""

from __future__ import annotations

from pydantic import BaseModel


class Interval(BaseModel):
    """A value with its two ends; they are None where the noise isn't known."""

    value: float
    low: float | None = None
    high: float | None = None


class RateLosses(BaseModel):
    """Validation losses after a short run at one rate.

    `losses` has one for each seed that reached its end; `diverged` counts the others, whose loss
    or gradient was not finite. `tokens` is the length of the run.
    """

    rate: float
    tokens: int
    losses: list[float]
    diverged: int = 0


class RampRow(BaseModel):
    """The training loss of the trunk of the range test at a rate, smoothed over the rows before."""

    rate: float
    loss: float


class RangeFound(BaseModel):
    """The result of the range test.

    `best` is the rate at which a parabola through the lowest losses is lowest, with the rates
    between which the loss is at most `tolerance` above it. `edge` is the lowest rate that diverged.
    `drift` is the slope of log(best rate) over log(tokens), None where only one length was tried.
    `recommended` is the rate for the whole run.
    """

    losses: list[RateLosses]
    ramp: list[RampRow] = []
    best: Interval
    tolerance: float
    edge: float | None = None
    drift: float | None = None
    recommended: Interval
    notes: list[str] = []


class SizeLosses(BaseModel):
    """Validation losses after forks at one depth with one batch size, one for each seed."""

    depth: int
    size: int
    losses: list[float | None]


class CriticalAt(BaseModel):
    """The critical batch size at one depth.

    `size` is the largest batch that loses at most the tolerance against the best one, between two
    measured ones by their logarithms; `at_least` says that all measured sizes are below it.
    `noise_scale` is the gradient noise scale there, None if it wasn't measured.
    """

    depth: int
    size: Interval
    at_least: bool = False
    at_most: bool = False
    noise_scale: float | None = None


class CriticalFound(BaseModel):
    """The critical batch size over depths, and the batch sizes that follow from it.

    `stairs` has a token count and the batch size from there on; the first begins at 0.
    """

    losses: list[SizeLosses]
    at: list[CriticalAt]
    stairs: list[tuple[int, int]]
    notes: list[str] = []


class StepCost(BaseModel):
    """Seconds of a step: `fixed`, and `per_sample` for each sample that a device has of it."""

    fixed: float
    per_sample: float

    def seconds(self, batch: int, devices: int) -> float:
        """Seconds of a step of `batch` samples over `devices`, without their exchange."""
        return self.fixed + self.per_sample * -(-batch // devices)


class Saving(BaseModel):
    """Time and money of the whole run on a number of devices, with a constant batch and tuned."""

    devices: int
    constant_hours: float
    tuned_hours: float
    constant_money: float | None = None
    tuned_money: float | None = None


class Confirmed(BaseModel):
    """Losses of the constant batch and of the tuned schedule by seed, and their difference.

    `gap` is tuned minus constant, the mean over seeds with its 95 % interval; None where a run
    diverged, whose loss is None.
    """

    constant: list[float | None]
    tuned: list[float | None]
    gap: Interval | None
    verdict: str


class PassTried(BaseModel):
    """A forward and backward pass with a number of rows: whether it fit, and how fast it was."""

    rows: int
    fits: bool
    samples_per_s: float | None = None
    reason: str = ""


class MicroBatchFound(BaseModel):
    """The largest micro-batch that fits, and the one to take: the smallest that is as fast."""

    tried: list[PassTried]
    largest: int
    recommended: int

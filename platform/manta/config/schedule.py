"""Config of schedules: segments on the token clock, and shorthands for them.

`manta.schedule` resolves both forms to the same segments.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from manta.config.on_change import OnChange
from manta.config.section import Section
from manta.config.units import PositiveTokens, Span

Shape = Literal["constant", "linear", "cosine", "1-sqrt", "exponential", "cyclic"]


def _no_bool(value: Any) -> Any:
    """Refuse true and false, which Python would read as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("write a number, not true or false")
    return value


BOTH_ENDS = "give 'tokens' or 'until', not both"
Rate = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]


class SegmentSpec(Section):
    """One segment of a schedule.

    A segment has a length, `tokens`, or an end, `until`, as a token count or a share of the
    horizon; the last segment may have neither and then lasts to the horizon. `from` defaults to
    the value at which the segment before ends.
    """

    shape: Shape = Field(
        default="constant", description="shape of the way from the first to the last value"
    )
    tokens: Span | None = Field(default=None, description="length of the segment")
    until: Span | None = Field(default=None, description="end of the segment; in place of `tokens`")
    start: Annotated[Rate, Field(ge=0)] | None = Field(
        default=None,
        alias="from",
        description="first value; if left out, the last one of the segment before",
    )
    end: Annotated[Rate, Field(ge=0)] | None = Field(
        default=None, alias="to", description="last value; a constant segment has none"
    )
    period: PositiveTokens | None = Field(
        default=None, description="cyclic segments: tokens from one low to the next"
    )
    multiple_of: Count = Field(
        default=1, description="batch sizes are rounded down to a multiple of this"
    )

    @model_validator(mode="after")
    def _consistent(self) -> SegmentSpec:
        if self.tokens is not None and self.until is not None:
            raise ValueError(BOTH_ENDS)
        check_values(self.shape, self.start, self.end)
        if (self.shape == "cyclic") != (self.period is not None):
            raise ValueError("a cyclic segment needs 'period', and no other shape takes it")
        return self


def check_values(shape: Shape, start: float | None, end: float | None) -> None:
    """Raise ValueError if a segment of a shape can't have these first and last values."""
    if shape == "constant" and end is not None and end != start:
        raise ValueError("a constant segment has one value: give 'from', not 'to'")
    if shape != "constant" and end is None:
        raise ValueError(f"a {shape} segment needs 'to'")


class LrShorthand(Section):
    """A named learning-rate schedule: warmup to `peak`, then what the name says.

    `wsd` holds the peak and decays over the last `decay`; `cosine` and `linear` decay
    from the end of the warmup to the horizon; `constant` holds. All decay to `floor`.
    """

    name: Literal["wsd", "cosine", "constant", "linear"] = Field(
        description="warmup, then: stable and decay (wsd), a decay to the horizon, or constant"
    )
    peak: Rate = Field(gt=0, description="the rate after the warmup")
    warmup: Span = Field(default=0, description="length of the linear rise from 0 to the peak")
    decay: Span | None = Field(default=None, description="wsd: length of the decay at the end")
    decay_shape: Literal["linear", "cosine", "1-sqrt", "exponential"] = Field(
        default="1-sqrt", description="wsd: shape of the decay"
    )
    floor: Rate = Field(default=0.0, ge=0, description="the rate at the end of the decay")

    @model_validator(mode="after")
    def _consistent(self) -> LrShorthand:
        if self.name == "wsd" and self.decay is None:
            raise ValueError("wsd needs 'decay', such as 20%")
        if self.name != "wsd" and self.decay is not None:
            raise ValueError(f"'decay' is only for wsd, not for {self.name}")
        if self.name != "wsd" and self.decay_shape != "1-sqrt":
            raise ValueError(f"'decay_shape' is only for wsd, not for {self.name}")
        if self.name == "constant" and self.floor > 0:
            raise ValueError("'floor' is only for a schedule that decays; constant holds the peak")
        if self.floor > self.peak:
            raise ValueError(f"'floor' {self.floor} is above 'peak' {self.peak}")
        return self


class BatchRamp(Section):
    """The batch size held at `from` until `start`, grown to `to` over `over`, then held."""

    name: Literal["ramp"] = Field(description="the only shorthand of batch sizes")
    start_size: Count = Field(alias="from", description="samples a step at the start")
    end_size: Count = Field(alias="to", description="samples a step after the ramp")
    start: Span = Field(default=0, description="where the ramp begins")
    over: Span = Field(description="length of the ramp")
    shape: Literal["linear", "cosine", "1-sqrt", "exponential"] = Field(
        default="linear", description="how the size grows"
    )
    multiple_of: Count = Field(
        default=1, description="batch sizes are rounded down to a multiple of this"
    )


def _form(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "segments"
    return "shorthand" if isinstance(value, dict | Section) else "number"


LrSpec = Annotated[
    Annotated[Rate, Field(gt=0), Tag("number")]
    | Annotated[LrShorthand, Tag("shorthand")]
    | Annotated[list[SegmentSpec], Field(min_length=1), Tag("segments")],
    Discriminator(_form),
]
BatchSpec = Annotated[
    Annotated[Count, Tag("number")]
    | Annotated[BatchRamp, Tag("shorthand")]
    | Annotated[list[SegmentSpec], Field(min_length=1), Tag("segments")],
    Discriminator(_form),
]


class Past(Section):
    """The schedule that was in force up to a token count."""

    until: PositiveTokens = Field(description="token count up to which this schedule was in force")
    horizon: PositiveTokens | None = Field(
        default=None, description="horizon that its shares refer to; schedule.horizon if left out"
    )
    lr: LrSpec = Field(description="as schedule.lr")
    batch: BatchSpec = Field(description="as schedule.batch")


class ScheduleSection(Section):
    """Learning rate and batch size as functions of the tokens consumed.

    If a fork changed the schedule, `history` has the earlier ones in order; `lr` and `batch` are
    in force from the last `until` on.
    """

    on_change: ClassVar[OnChange] = OnChange.FORK

    horizon: PositiveTokens = Field(description="tokens after which the run ends")
    lr: LrSpec = Field(description="a rate, a named shorthand, or a list of segments")
    batch: BatchSpec = Field(
        description="samples a step: a number, {name: ramp, …}, or a list of segments"
    )
    history: list[Past] = Field(
        default_factory=list, description="schedules that were in force before, in order"
    )

    @model_validator(mode="after")
    def _in_order(self) -> ScheduleSection:
        ends = [0, *(past.until for past in self.history), self.horizon]
        if any(after <= before for before, after in pairwise(ends)):
            raise ValueError(
                "'history': each 'until' must be above the one before and below 'horizon'"
            )
        if any(past.horizon is not None and past.horizon < past.until for past in self.history):
            raise ValueError("'history': a 'horizon' must not be below its 'until'")
        return self

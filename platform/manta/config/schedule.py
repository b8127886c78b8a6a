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

Shape = Literal["constant", "linear", "cosine", "1-sqrt", "exponential", "power", "cyclic"]


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
    exponent: Rate | None = Field(
        default=None,
        gt=0,
        description="power segments: the value falls as tokens to the power of minus this",
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
        if (self.shape == "power") != (self.exponent is not None):
            raise ValueError("a power segment needs 'exponent', and no other shape takes it")
        return self


def check_values(shape: Shape, start: float | None, end: float | None) -> None:
    """Raise ValueError if a segment of a shape can't have these first and last values."""
    if shape == "constant" and end is not None and end != start:
        raise ValueError("a constant segment has one value: give 'from', not 'to'")
    if shape == "power" and end is not None:
        raise ValueError("a power segment ends where its 'exponent' leads it: leave 'to' out")
    if shape not in ("constant", "power") and end is None:
        raise ValueError(f"a {shape} segment needs 'to'")


# The shorthands that may decay over the last part of the run, whatever comes before.
DECAYING = ("wsd", "inverse-sqrt", "power")
# Shen et al., 2024 (arXiv:2408.13359), fitted over batch sizes and lengths of runs.
POWER, INVERSE_SQRT = 0.51, 0.5


class LrShorthand(Section):
    """A named learning-rate schedule: warmup to `peak`, then what the name says.

    `wsd` holds the peak and decays over the last `decay`; `cosine` and `linear` decay
    from the end of the warmup to the horizon; `constant` holds. `inverse-sqrt` and `power` fall
    as a power of the tokens, from the end of `hold` on, whatever the horizon, and may decay over
    the last `decay`. All decay to `floor`. `seesaw` is cosine in steps: where that has halved, the
    batch size doubles and the rate is divided by √2 (Meterez et al., 2025, arXiv:2510.14717).
    """

    name: Literal["wsd", "cosine", "constant", "linear", "inverse-sqrt", "power", "seesaw"] = Field(
        description="warmup, then: stable and decay (wsd), a decay to the horizon, constant, a "
        "power of the tokens, or cosine by rate and batch size (seesaw)"
    )
    peak: Rate = Field(gt=0, description="the rate after the warmup")
    warmup: Span = Field(default=0, description="length of the linear rise from 0 to the peak")
    hold: Span | None = Field(
        default=None,
        description="inverse-sqrt and power: where the peak ends and the fall begins; the end of "
        "the warmup if left out",
    )
    exponent: Rate | None = Field(
        default=None,
        gt=0,
        description="power: the rate falls as tokens to the power of minus this; 0.51 if left out",
    )
    decay: Span | None = Field(
        default=None,
        description="wsd, inverse-sqrt and power: length of the decay at the end; `manta fork` "
        "also takes now",
    )
    decay_shape: Literal["linear", "cosine", "1-sqrt", "exponential"] = Field(
        default="1-sqrt", description="shape of that decay"
    )
    floor: Rate = Field(default=0.0, ge=0, description="the rate at the end of the decay")

    @model_validator(mode="after")
    def _consistent(self) -> LrShorthand:
        decaying = " and ".join(DECAYING)
        if self.name == "wsd" and self.decay is None:
            raise ValueError("wsd needs 'decay', such as 20%")
        if self.name not in DECAYING and self.decay is not None:
            raise ValueError(f"'decay' is only for {decaying}, not for {self.name}")
        if self.decay is None and self.decay_shape != "1-sqrt":
            raise ValueError(f"'decay_shape' is only for {decaying}, with 'decay'")
        if self.hold is not None and self.name not in ("inverse-sqrt", "power"):
            raise ValueError(f"'hold' is only for inverse-sqrt and power, not for {self.name}")
        if self.exponent is not None and self.name != "power":
            raise ValueError(f"'exponent' is only for power, not for {self.name}")
        holds = self.name in ("constant", *DECAYING) and self.decay is None
        if holds and self.floor > 0:
            raise ValueError(
                f"'floor' is only for a schedule that decays to it; {self.name} does not"
                + (" without 'decay'" if self.name in DECAYING else "")
            )
        if self.floor > self.peak:
            raise ValueError(f"'floor' {self.floor} is above 'peak' {self.peak}")
        return self


class BatchShorthand(Section):
    """A named batch schedule.

    `ramp` holds the size at `from` until `start`, grows to `to` over `over`, then holds. `seesaw`
    doubles it wherever the cosine of `schedule.lr` has halved, as long as it is not above `to`.
    """

    name: Literal["ramp", "seesaw"] = Field(
        description="ramp: grown over a stretch of tokens; seesaw: doubled, with schedule.lr.name: "
        "seesaw"
    )
    start_size: Count = Field(alias="from", description="samples a step at the start")
    end_size: Count = Field(
        alias="to", description="samples a step after the ramp; of seesaw, at most"
    )
    start: Span = Field(default=0, description="ramp: where it begins")
    over: Span | None = Field(default=None, description="ramp: its length")
    shape: Literal["linear", "cosine", "1-sqrt", "exponential"] = Field(
        default="linear", description="ramp: how the size grows"
    )
    multiple_of: Count = Field(
        default=1, description="ramp: batch sizes are rounded down to a multiple of this"
    )

    @model_validator(mode="after")
    def _consistent(self) -> BatchShorthand:
        if self.name == "ramp" and self.over is None:
            raise ValueError("a ramp needs 'over', its length, such as 30%")
        if self.name == "seesaw":
            for key in ("start", "over", "shape", "multiple_of"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"'{key}' is only for ramp, not for seesaw")
            if self.end_size < self.start_size:
                raise ValueError(f"'to' {self.end_size} is below 'from' {self.start_size}")
        return self


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
    | Annotated[BatchShorthand, Tag("shorthand")]
    | Annotated[list[SegmentSpec], Field(min_length=1), Tag("segments")],
    Discriminator(_form),
]


def check_together(lr: object, batch: object) -> None:
    """Raise ValueError if a rate by seesaw has no batch size by seesaw, or the other way round."""
    named = [isinstance(each, Section) and each.name == "seesaw" for each in (lr, batch)]  # type: ignore[attr-defined]
    if named[0] != named[1]:
        lacking = "batch" if named[0] else "lr"
        raise ValueError(
            f"seesaw is a schedule of both rate and batch size: give '{lacking}' as "
            "{name: seesaw, …}, too"
        )


class Past(Section):
    """The schedule that was in force up to a token count."""

    until: PositiveTokens = Field(description="token count up to which this schedule was in force")
    horizon: PositiveTokens | None = Field(
        default=None, description="horizon that its shares refer to; schedule.horizon if left out"
    )
    lr: LrSpec = Field(description="as schedule.lr")
    batch: BatchSpec = Field(description="as schedule.batch")

    @model_validator(mode="after")
    def _together(self) -> Past:
        check_together(self.lr, self.batch)
        return self


class ScheduleSection(Section):
    """Learning rate and batch size as functions of the tokens consumed.

    If a fork changed the schedule, `history` has the earlier ones in order; `lr` and `batch` are
    in force from the last `until` on.
    """

    on_change: ClassVar[OnChange] = OnChange.FORK

    horizon: PositiveTokens = Field(description="tokens after which the run ends")
    lr: LrSpec = Field(description="a rate, a named shorthand, or a list of segments")
    batch: BatchSpec = Field(
        description="samples a step: a number, {name: ramp, …} or {name: seesaw, …}, or a list of "
        "segments"
    )
    history: list[Past] = Field(
        default_factory=list, description="schedules that were in force before, in order"
    )

    @model_validator(mode="after")
    def _together(self) -> ScheduleSection:
        check_together(self.lr, self.batch)
        return self

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

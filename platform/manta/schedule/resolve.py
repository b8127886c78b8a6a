"""Resolve a schedule's config to canonical segments.

A shorthand is first written out as the segments that it stands for, so that both forms have the
same meaning. Canonical means: every segment has at least one token, a curve between equal values
is a constant, and neighbours with the same constant are joined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from manta.config.errors import ConfigError
from manta.config.schedule import (
    DECAYING,
    INVERSE_SQRT,
    POWER,
    BatchShorthand,
    LrShorthand,
    ScheduleSection,
    SegmentSpec,
)
from manta.config.units import format_tokens
from manta.schedule.seesaw import Seesaw
from manta.schedule.segment import Segment, round_batch

# Above this, two neighbouring token counts are the same float.
LONGEST_HORIZON = 2**53

LR, BATCH = "schedule.lr", "schedule.batch"
Piece = tuple[str, SegmentSpec]  # a segment's key in the config, and the segment
# A rate and the batch size beside it, as they are written.
Lr = float | LrShorthand | list[SegmentSpec]
Batch = int | BatchShorthand | list[SegmentSpec]
Pair = tuple[Lr, Batch]


def lr_segments(config: ScheduleSection) -> tuple[Segment, ...]:
    """The learning rate's canonical segments, from 0 to the horizon without a gap.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    check_horizon(config.horizon)
    return _joined([(until, _one_lr(pair, horizon)) for until, horizon, pair in _in_force(config)])


def _in_force(config: ScheduleSection) -> Iterator[tuple[int, int, Pair]]:
    """Each pair of rate and batch size with the end of its time, and the horizon it refers to."""
    for each in config.history:
        yield each.until, each.horizon or config.horizon, (each.lr, each.batch)
    yield config.horizon, config.horizon, (config.lr, config.batch)


def _one_lr(pair: Pair, horizon: int) -> tuple[Segment, ...]:
    lr, batch = pair
    if isinstance(lr, LrShorthand):
        _check_lr_shorthand(lr, horizon)
        if lr.name == "seesaw":
            assert isinstance(batch, BatchShorthand)  # the config has both or neither
            return _merge(iter(_seesaw(lr, batch, horizon).lr_segments()))
    pieces = _lr_pieces(lr, horizon)
    for key, spec in pieces:
        if spec.multiple_of != 1:
            raise ConfigError(f"{key}.multiple_of: is a key of schedule.batch only; remove it here")
    return _merge(_canonical(segment) for segment in place(pieces, LR, horizon))


def batch_segments(config: ScheduleSection) -> tuple[Segment, ...]:
    """The batch size's canonical segments, in samples; see `lr_segments`."""
    check_horizon(config.horizon)
    found = [(until, _one_batch(pair, horizon)) for until, horizon, pair in _in_force(config)]
    if any(s.period for _, segments in found[:-1] for s in segments):
        raise ConfigError(
            "schedule.history: a cyclic batch size can't end before its schedule does; write it as "
            "segments without a period"
        )
    return _joined(found)


def _one_batch(pair: Pair, horizon: int) -> tuple[Segment, ...]:
    lr, batch = pair
    if isinstance(batch, BatchShorthand) and batch.name == "seesaw":
        assert isinstance(lr, LrShorthand)
        return tuple(_seesaw(lr, batch, horizon).batch_segments())
    pieces = _batch_pieces(batch, horizon)
    for key, spec in pieces:
        _check_batch_value(f"{key}.from", spec.start)
        _check_batch_value(f"{key}.to", spec.end)
    placed = place(pieces, BATCH, horizon)
    return _merge(_canonical_batch(segment) for segment in placed)


def _joined(pasts: list[tuple[int, tuple[Segment, ...]]]) -> tuple[Segment, ...]:
    """Join schedules, each in force until a token count; the curves don't change."""
    found: list[Segment] = []
    begin = 0
    for until, segments in pasts:
        found += [
            segment.part(max(segment.start, begin), min(segment.end, until))
            for segment in segments
            if segment.start < until and segment.end > begin
        ]
        begin = until
    return _merge(iter(found))


def check_horizon(horizon: int) -> None:
    """Raise ConfigError if floats can't represent all token counts up to the horizon."""
    if horizon > LONGEST_HORIZON:
        raise ConfigError(
            f"schedule.horizon = {format_tokens(horizon)}: only {LONGEST_HORIZON} tokens can be "
            "counted exactly; lower it"
        )


# Shorthands, written out.


def _lr_pieces(lr: Lr, horizon: int) -> list[Piece]:
    if isinstance(lr, list):
        return [(f"{LR}.{index}", spec) for index, spec in enumerate(lr)]
    if isinstance(lr, LrShorthand):
        warmup = _spec(shape="linear", start=0, end=lr.peak, tokens=lr.warmup)
        return [(LR, spec) for spec in (warmup, *_after_warmup(lr, horizon))]
    return [(LR, _spec(start=lr))]


def _after_warmup(lr: LrShorthand, horizon: int) -> list[SegmentSpec]:
    if lr.name == "constant":
        return [_spec(start=lr.peak)]
    if lr.name not in DECAYING:
        return [_spec(shape=lr.name, start=lr.peak, end=lr.floor)]
    before = {} if lr.decay is None else {"until": _remainder(lr.decay, horizon)}
    decay = [] if lr.decay is None else [_spec(shape=lr.decay_shape, end=lr.floor)]
    if lr.name == "wsd":
        return [_spec(start=lr.peak, **before), *decay]
    hold = [] if lr.hold is None else [_spec(start=lr.peak, until=lr.hold)]
    exponent = INVERSE_SQRT if lr.name == "inverse-sqrt" else lr.exponent or POWER
    start = None if hold else lr.peak
    return [*hold, _spec(shape="power", start=start, exponent=exponent, **before), *decay]


def _seesaw(lr: LrShorthand, batch: BatchShorthand, horizon: int) -> Seesaw:
    warmup = math.floor(exact_tokens(lr.warmup, horizon))
    return Seesaw(lr.peak, lr.floor, warmup, horizon, batch.start_size, batch.end_size)


def _check_lr_shorthand(lr: LrShorthand, horizon: int) -> None:
    decay = Fraction(0) if lr.decay is None else exact_tokens(lr.decay, horizon)
    if exact_tokens(lr.warmup, horizon) > horizon:
        raise ConfigError(
            f"{LR}.warmup = {_show(lr.warmup)}: is longer than the horizon of "
            f"{format_tokens(horizon)} tokens; shorten it"
        )
    if exact_tokens(lr.warmup, horizon) + decay > horizon:
        raise ConfigError(
            f"{LR}.decay = {_show(lr.decay)}: together with the warmup of {_show(lr.warmup)} the "
            f"decay is longer than the horizon of {format_tokens(horizon)} tokens; shorten one of "
            "them"
        )
    _check_power(lr, horizon, decay)
    if lr.decay is not None and lr.decay_shape == "exponential" and lr.floor == 0:
        raise ConfigError(
            f"{LR}.floor = 0: an exponential decay never reaches 0; give a floor above 0, "
            "such as a hundredth of the peak"
        )


def _check_power(lr: LrShorthand, horizon: int, decay: Fraction) -> None:
    if lr.name not in ("inverse-sqrt", "power"):
        return
    begin = exact_tokens(lr.warmup if lr.hold is None else lr.hold, horizon)
    if begin < 1:
        raise ConfigError(
            f"{LR}.hold: a rate that falls as a power of the tokens can't begin to at 0 tokens: "
            "give 'warmup' or 'hold', such as 2%"
        )
    if not exact_tokens(lr.warmup, horizon) <= begin <= horizon - decay:
        raise ConfigError(
            f"{LR}.hold = {_show(lr.hold)}: must lie between the end of the warmup and the "
            "beginning of the decay, or the horizon"
        )


def _batch_pieces(batch: Batch, horizon: int) -> list[Piece]:
    if isinstance(batch, list):
        return [(f"{BATCH}.{index}", spec) for index, spec in enumerate(batch)]
    if not isinstance(batch, BatchShorthand):
        return [(BATCH, _spec(start=batch))]
    assert batch.over is not None  # a ramp has it
    if exact_tokens(batch.start, horizon) + exact_tokens(batch.over, horizon) > horizon:
        raise ConfigError(
            f"{BATCH}.over = {_show(batch.over)}: the ramp, starting at {_show(batch.start)}, ends "
            f"after the horizon of {format_tokens(horizon)} tokens; shorten it or start it earlier"
        )
    low, high, multiple = batch.start_size, batch.end_size, batch.multiple_of
    before = _spec(start=low, tokens=batch.start, multiple_of=multiple)
    ramp = _spec(shape=batch.shape, start=low, end=high, tokens=batch.over, multiple_of=multiple)
    return [(BATCH, spec) for spec in (before, ramp, _spec(start=high, multiple_of=multiple))]


def _spec(**fields: Any) -> SegmentSpec:
    return SegmentSpec.model_validate(fields)


def _remainder(span: int | str, horizon: int) -> int | str:
    """The part of the horizon before its last `span`, as a span."""
    return horizon - span if isinstance(span, int) else f"{100 - Decimal(span.rstrip('%')):f}%"


# Positions on the token clock.


def exact_tokens(span: int | str, horizon: int) -> Fraction:
    """Tokens in `span`, not rounded, so that 5% + 75% + 20% is exactly the horizon."""
    if isinstance(span, int):
        return Fraction(span)
    return Fraction(span.rstrip("%")) * horizon / 100


def place(pieces: list[Piece], root: str, horizon: int) -> Iterator[Segment]:
    """Give each piece its start, end and values; pieces without a token are dropped."""
    end, value = Fraction(0), None
    for index, (key, spec) in enumerate(pieces):
        start = end
        end = _end(key, spec, start, horizon, is_last=index == len(pieces) - 1)
        segment = _segment(key, spec, (math.floor(start), math.floor(end)), value)
        value = segment.closing
        if segment.end > segment.start:
            yield segment
    if end < horizon:
        raise ConfigError(
            f"{root}: its segments end at {format_tokens(math.floor(end))} tokens, before the "
            f"horizon of {format_tokens(horizon)}; remove 'tokens' and 'until' from the last one, "
            "so that it lasts to the horizon"
        )


def _end(key: str, spec: SegmentSpec, start: Fraction, horizon: int, is_last: bool) -> Fraction:
    if spec.until is not None:
        key, span, end = f"{key}.until", spec.until, exact_tokens(spec.until, horizon)
    elif spec.tokens is not None:
        key, span, end = f"{key}.tokens", spec.tokens, start + exact_tokens(spec.tokens, horizon)
    elif is_last:
        return Fraction(horizon)
    else:
        raise ConfigError(f"{key}: give 'tokens' or 'until'; only the last segment needs neither")
    if end < start:
        raise ConfigError(
            f"{key} = {_show(span)}: is before the segment's start at "
            f"{format_tokens(math.floor(start))} tokens; put the segments in order, or give "
            "'tokens' for a length"
        )
    if end > horizon:
        raise ConfigError(
            f"{key} = {_show(span)}: ends at {format_tokens(math.floor(end))} tokens, after the "
            f"horizon of {format_tokens(horizon)}; shorten the segment or raise schedule.horizon"
        )
    return end


def _segment(key: str, spec: SegmentSpec, place: tuple[int, int], before: float | None) -> Segment:
    first = before if spec.start is None else spec.start
    if first is None:
        raise ConfigError(f"{key}.from is missing: the first segment needs a value to start at")
    last = first if spec.end is None else spec.end
    if spec.exponent is not None:
        if not place[0]:
            raise ConfigError(f"{key}: a power segment can't begin at 0 tokens; put one before it")
        last = first * (place[1] / place[0]) ** -spec.exponent
    if spec.shape == "exponential" and not (first > 0 and last > 0):
        name = "from" if first == 0 else "to"
        raise ConfigError(
            f"{key}.{name} = 0: an exponential segment multiplies, so it can't start or end at 0; "
            "give a small value above 0, or another shape"
        )
    return Segment(
        *place,
        spec.shape,
        first,
        last,
        spec.period,
        spec.multiple_of,
        exponent=spec.exponent,
    )


def _check_batch_value(key: str, value: float | None) -> None:
    if value is not None and (value < 1 or value != int(value)):
        raise ConfigError(f"{key} = {value:g}: give a whole number of samples, 1 or greater")


def _show(span: int | str | None) -> str:
    return format_tokens(span) if isinstance(span, int) else str(span)


# The canonical form.


def _canonical(segment: Segment) -> Segment:
    if segment.first == segment.last:
        return replace(segment, shape="constant", period=None)
    return segment


def _canonical_batch(segment: Segment) -> Segment:
    segment = _canonical(segment)
    if segment.shape != "constant":
        return segment
    size = float(round_batch(np.array(segment.first), segment.multiple_of))
    return replace(segment, first=size, last=size, multiple_of=1)


def _merge(segments: Iterator[Segment]) -> tuple[Segment, ...]:
    """Join neighbours with the same constant."""
    merged: list[Segment] = []
    for segment in segments:
        before = merged[-1] if merged else None
        if before and segment.shape == before.shape == "constant" and segment.first == before.first:
            merged[-1] = replace(before, end=segment.end)
        else:
            merged.append(segment)
    return tuple(merged)

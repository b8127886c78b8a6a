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
from manta.config.schedule import BatchRamp, LrShorthand, ScheduleSection, SegmentSpec
from manta.config.units import format_tokens
from manta.schedule.segment import Segment, round_batch

# Above this, two neighbouring token counts are the same float.
LONGEST_HORIZON = 2**53

LR, BATCH = "schedule.lr", "schedule.batch"
Piece = tuple[str, SegmentSpec]  # a segment's key in the config, and the segment


def lr_segments(config: ScheduleSection) -> tuple[Segment, ...]:
    """The learning rate's canonical segments, from 0 to the horizon without a gap.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    check_horizon(config.horizon)
    past = [
        (each.until, _one_lr(each.lr, each.horizon or config.horizon)) for each in config.history
    ]
    return _joined([*past, (config.horizon, _one_lr(config.lr, config.horizon))])


def _one_lr(lr: float | LrShorthand | list[SegmentSpec], horizon: int) -> tuple[Segment, ...]:
    pieces = _lr_pieces(lr, horizon)
    for key, spec in pieces:
        if spec.multiple_of != 1:
            raise ConfigError(f"{key}.multiple_of: is a key of schedule.batch only; remove it here")
    return _merge(_canonical(segment) for segment in place(pieces, LR, horizon))


def batch_segments(config: ScheduleSection) -> tuple[Segment, ...]:
    """The batch size's canonical segments, in samples; see `lr_segments`."""
    check_horizon(config.horizon)
    past = [
        (each.until, _one_batch(each.batch, each.horizon or config.horizon))
        for each in config.history
    ]
    if past and any(s.period for _, segments in past for s in segments):
        raise ConfigError(
            "schedule.history: a cyclic batch size can't end before its schedule does; write it as "
            "segments without a period"
        )
    return _joined([*past, (config.horizon, _one_batch(config.batch, config.horizon))])


def _one_batch(batch: int | BatchRamp | list[SegmentSpec], horizon: int) -> tuple[Segment, ...]:
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


def _lr_pieces(lr: float | LrShorthand | list[SegmentSpec], horizon: int) -> list[Piece]:
    if isinstance(lr, list):
        return [(f"{LR}.{index}", spec) for index, spec in enumerate(lr)]
    if isinstance(lr, LrShorthand):
        _check_lr_shorthand(lr, horizon)
        warmup = _spec(shape="linear", start=0, end=lr.peak, tokens=lr.warmup)
        return [(LR, spec) for spec in (warmup, *_after_warmup(lr, horizon))]
    return [(LR, _spec(start=lr))]


def _after_warmup(lr: LrShorthand, horizon: int) -> list[SegmentSpec]:
    if lr.name == "constant":
        return [_spec(start=lr.peak)]
    if lr.name == "wsd" and lr.decay is not None:
        hold = _spec(start=lr.peak, until=_remainder(lr.decay, horizon))
        return [hold, _spec(shape=lr.decay_shape, start=lr.peak, end=lr.floor)]
    return [_spec(shape=lr.name, start=lr.peak, end=lr.floor)]


def _check_lr_shorthand(lr: LrShorthand, horizon: int) -> None:
    decay = Fraction(0) if lr.decay is None else _exact(lr.decay, horizon)
    if _exact(lr.warmup, horizon) > horizon:
        raise ConfigError(
            f"{LR}.warmup = {_show(lr.warmup)}: is longer than the horizon of "
            f"{format_tokens(horizon)} tokens; shorten it"
        )
    if _exact(lr.warmup, horizon) + decay > horizon:
        raise ConfigError(
            f"{LR}.decay = {_show(lr.decay)}: together with the warmup of {_show(lr.warmup)} the "
            f"decay is longer than the horizon of {format_tokens(horizon)} tokens; shorten one of "
            "them"
        )
    if lr.name == "wsd" and lr.decay_shape == "exponential" and lr.floor == 0:
        raise ConfigError(
            f"{LR}.floor = 0: an exponential decay never reaches 0; give a floor above 0, "
            "such as a hundredth of the peak"
        )


def _batch_pieces(batch: int | BatchRamp | list[SegmentSpec], horizon: int) -> list[Piece]:
    if isinstance(batch, list):
        return [(f"{BATCH}.{index}", spec) for index, spec in enumerate(batch)]
    if not isinstance(batch, BatchRamp):
        return [(BATCH, _spec(start=batch))]
    if _exact(batch.start, horizon) + _exact(batch.over, horizon) > horizon:
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


def _exact(span: int | str, horizon: int) -> Fraction:
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
        key, span, end = f"{key}.until", spec.until, _exact(spec.until, horizon)
    elif spec.tokens is not None:
        key, span, end = f"{key}.tokens", spec.tokens, start + _exact(spec.tokens, horizon)
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
    if spec.shape == "exponential" and not (first > 0 and last > 0):
        name = "from" if first == 0 else "to"
        raise ConfigError(
            f"{key}.{name} = 0: an exponential segment multiplies, so it can't start or end at 0; "
            "give a small value above 0, or another shape"
        )
    return Segment(*place, spec.shape, first, last, spec.period, spec.multiple_of)


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

"""Shares of a mixture's sources as functions of the position: stretches of straight lines.

A source's weight is given by segments on the token clock. Between two neighbouring token counts at
which any source's segment begins or ends, the *shares*, which are the weights to the power of
1/temperature scaled to a sum of 1, change in a straight line. So their sum is 1 everywhere, and
their integral over positions, the number of samples that are due of each source, has a closed
form. A sample's shares are those at the token count at which it begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from manta.config.errors import ConfigError
from manta.config.mixture import MixtureParts, MixtureSection
from manta.config.schedule import SegmentSpec
from manta.config.units import format_tokens
from manta.schedule.resolve import check_horizon, place
from manta.schedule.segment import Segment

Floats = NDArray[np.float64]

KEY = "data.mixture"
# More positions than any run has.
ENDLESS = 2**62


@dataclass(frozen=True)
class SourceShare:
    """A source's share of the samples: from `first` to `last` over its stretch's line."""

    source: str
    first: float
    last: float


@dataclass(frozen=True)
class Stretch:
    """Shares from the position `start` up to the start of the next stretch.

    Attributes:
        start: first position of the stretch.
        shares: the sources with a share above 0 anywhere in the stretch; none where the run had
            no mixture.
        line: positions, not always whole, between which shares go from `first` to `last`; equal
            if shares are constant. A stretch may be only a part of its line.
    """

    start: int
    shares: tuple[SourceShare, ...]
    line: tuple[float, float] = (0.0, 0.0)

    @property
    def constant(self) -> bool:
        """Whether no share changes."""
        return self.line[0] == self.line[1]

    @property
    def curve(self) -> tuple[object, ...]:
        """What determines the shares at a position, wherever the stretch begins or ends."""
        return self.shares, self.line

    def share(self, source: str, positions: Floats) -> Floats:
        """The share of a source at some positions, of the same shape; from the line's end on, its
        last value."""
        found = next((each for each in self.shares if each.source == source), None)
        if found is None:
            return np.zeros(positions.shape)
        if self.constant:
            return np.full(positions.shape, found.first)
        begin, end = self.line
        way = np.clip((positions - begin) / (end - begin), 0.0, 1.0)
        return found.first + (found.last - found.first) * way


NO_MIXTURE = (Stretch(0, ()),)


@dataclass(frozen=True)
class Mixture:
    """The shares of all sources at every position.

    Attributes:
        sources: names of all sources that have a share anywhere, in the order of the corpus.
        stretches: shares over positions, from 0 on without a gap; equal mixtures have equal ones.
    """

    sources: tuple[str, ...]
    stretches: tuple[Stretch, ...]

    @classmethod
    def resolve(
        cls, section: MixtureSection, sizes: Mapping[str, int], horizon: int, seq_len: int
    ) -> Mixture:
        """The mixture that a config asks for.

        Args:
            section: the config's section.
            sizes: number of samples of each source of the corpus, in its order.
            horizon: tokens after which the run ends.
            seq_len: tokens of a sample.

        Raises:
            ConfigError: naming the key and the remedy.
        """
        check_horizon(horizon)
        found: list[Stretch] = []
        begin = 0
        for index, past in enumerate(section.history):
            if past.until > horizon:
                raise ConfigError(
                    f"{KEY}.history.{index}.until = {format_tokens(past.until)}: is after the "
                    f"horizon of {format_tokens(horizon)} tokens"
                )
            key = f"{KEY}.history.{index}.mixture"
            of = past.horizon or horizon
            parts = _stretches(key, past.mixture, sizes, of, seq_len)
            found += _between(parts, begin, -(-past.until // seq_len))
            begin = -(-past.until // seq_len)
        found += _between(_stretches(KEY, section, sizes, horizon, seq_len), begin, ENDLESS)
        stretches = tuple(_merged(found))
        taken = {each.source for stretch in stretches for each in stretch.shares}
        return cls(tuple(name for name in sizes if name in taken), stretches)

    def within(self, positions: int) -> Iterator[tuple[int, int, Stretch]]:
        """The stretches that begin before a position: first position, end, and stretch."""
        ends = [*(stretch.start for stretch in self.stretches[1:]), ENDLESS]
        for stretch, end in zip(self.stretches, ends, strict=True):
            if stretch.start < positions:
                yield stretch.start, min(end, positions), stretch


def positions_alike(a: Mixture | None, b: Mixture | None) -> int:
    """Number of positions, from the first on, that are of the same source in both mixtures."""
    mine, other = (each.stretches if each else NO_MIXTURE for each in (a, b))
    for one, two in zip(mine, other, strict=False):
        if one.start != two.start or one.curve != two.curve:
            return min(one.start, two.start)
    both = min(len(mine), len(other))
    return next((stretch.start for stretch in (*mine[both:], *other[both:])), ENDLESS)


# From a config's weights to shares.


def _stretches(
    key: str, parts: MixtureParts | None, sizes: Mapping[str, int], horizon: int, seq_len: int
) -> list[Stretch]:
    """The stretches of one section, from 0 to its horizon; `parts` None is no mixture."""
    if parts is None:
        return list(NO_MIXTURE)
    weights = {
        name: _segments(f"{key}.sources.{name}.weight", parts, name, sizes, horizon)
        for name in sizes
        if name in parts.sources
    }
    cuts = sorted({cut for segments in weights.values() for s in segments for cut in _ends(s)})
    found = []
    for begin, end in pairwise(cuts):
        first = _shares(key, parts, weights, begin, (begin, end))
        last = _shares(key, parts, weights, end, (begin, end))
        shares = tuple(
            SourceShare(name, first[name], last[name])
            for name in weights
            if first[name] > 0 or last[name] > 0
        )
        line = (begin / seq_len, end / seq_len) if first != last else (0.0, 0.0)
        found.append(Stretch(-(-begin // seq_len), shares, line))
    return found


def _ends(segment: Segment) -> tuple[int, int]:
    return segment.start, segment.end


def _segments(
    key: str, parts: MixtureParts, name: str, sizes: Mapping[str, int], horizon: int
) -> Sequence[Segment]:
    """The segments of a source's weight."""
    weight = parts.sources[name].weight
    if isinstance(weight, list):
        pieces = [(f"{key}.{index}", each.spec) for index, each in enumerate(weight)]
        return list(place(pieces, key, horizon))
    value = float(sizes[name]) if weight is None else weight
    return list(place([(key, SegmentSpec.model_validate({"from": value}))], key, horizon))


def _shares(
    key: str,
    parts: MixtureParts,
    weights: Mapping[str, Sequence[Segment]],
    tokens: int,
    within: tuple[int, int],
) -> dict[str, float]:
    """The shares at a token count, by the segments in force `within` two token counts."""
    raised = {}
    for name, segments in weights.items():
        segment = next(s for s in segments if s.start <= within[0] and within[1] <= s.end)
        raised[name] = _raised(segment.at(tokens), parts.temperature)
    total = math.fsum(raised.values())
    if not total:
        raise ConfigError(
            f"{key}.sources: at {format_tokens(tokens)} tokens all weights are 0, so that there is "
            "no source to take samples from; give one of them a weight above 0 there"
        )
    return {name: value / total for name, value in raised.items()}


def _raised(weight: float, temperature: float) -> float:
    """A weight to the power of 1/temperature, without digits that depend on the C library."""
    return weight if temperature == 1 else float(f"{weight ** (1 / temperature):.12g}")


def _between(stretches: list[Stretch], begin: int, end: int) -> Iterator[Stretch]:
    """The parts of stretches over the positions ``[begin, end)``; their lines stay as they are."""
    ends = [*(stretch.start for stretch in stretches[1:]), ENDLESS]
    for stretch, stop in zip(stretches, ends, strict=True):
        if max(stretch.start, begin) < min(stop, end):
            yield replace(stretch, start=max(stretch.start, begin))


def _merged(stretches: list[Stretch]) -> Iterator[Stretch]:
    """Stretches without those that continue the curve of the one before."""
    before: Stretch | None = None
    for stretch in stretches:
        if before is None or stretch.curve != before.curve:
            yield stretch
            before = stretch

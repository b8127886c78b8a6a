"""The sample order of a mixture: which source a position takes, and which of its samples, in O(1).

Index spaces, beside those of `manta.stream.order`:

- *due*: the number of samples that are due of a source at a position, the integral of its share
  over the positions before: a real number, in closed form.
- *block*: about `BLOCK` positions. Block `b` of a stretch takes, of each source, the samples
  between what is due, rounded, `b · BLOCK` and `(b + 1) · BLOCK` positions after the stretch's
  start. As the integral is rounded, and not its increase in a block, errors never add up; as it is
  rounded for each source by itself, what a source has never shrinks. Each source is rounded up from
  a fraction of its own on, a hash of its name, so that sources of equal shares don't get their next
  sample all at once. The sum over n sources is off by some √n/3 and less than n, so blocks differ a
  little in length, and their bounds have a closed form too.
- *slot*: an index into a block whose samples are laid out source after source. A block's positions
  get the slots in the order of a keyed hash, so that sources are shuffled within a block.
- *index*: the number of samples that earlier positions take of the same source: 0, 1, 2, … index
  → (epoch, place) → id is the keyed permutation of `manta.stream.order`, in each source by itself.

A stretch begins with the number of samples that each source has at its first position, so a change
of shares at a position changes nothing before it. What a source has too much there, by the rounding
of a block that is cut, it gets later: it waits until its due number has passed what it has.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manta.schedule.shares import Mixture, Stretch
from manta.stream.mix import U64, mix64
from manta.stream.order import SMALL, Ids, OrderGrid, SampleOrder, permuted

Floats = NDArray[np.float64]

# Positions of a block, on average: fewer than most batches, so that steps have nearly their shares.
# Within a block the samples of a source lie at random: one with half of the shares is up to two or
# three samples early or late.
BLOCK = 32
# Positions that are looked up at once: the arrays of one lookup fit into a CPU's cache.
CHUNK = 2**14
# Version of the layout of blocks. A change would make resumed runs repeat and miss samples.
PERSON = b"manta.mix.v1"
ODD = np.uint64(0x9E3779B97F4A7C15)
# Blocks that are laid out at once.
MOST_BLOCKS = 256
# Values within this many times their number lie close together.
CLOSE = 8
# The bits of a number by which positions are shuffled that are those of a hash.
MIDDLE = np.uint64(0x0000_FFFF_FFFF_0000)


@dataclass(frozen=True)
class SourceSpan:
    """The samples of one source: ids ``[first, first + samples)``.

    Attributes:
        name: name of the source.
        key: name of the set of samples, for the keys of its order.
        first: id of its first sample.
        samples: number of its samples, at least 1.
    """

    name: str
    key: str
    first: int
    samples: int


class Taken(NamedTuple):
    """Which samples some positions take, arrays of one shape.

    Attributes:
        source: number of the source, in the order of the spans.
        place: number of samples that earlier positions take of the source: its index in it.
    """

    source: Ids
    place: Ids


@dataclass(frozen=True, kw_only=True)
class MixedOrder:
    """The order of the samples of a mixture, for one seed; as `SampleOrder` to who reads it.

    Attributes:
        key: name of the set of all samples: the corpus fingerprint, "/", the split.
        seed: the run's seed; any integer.
        mixture: shares of the sources.
        spans: the mixture's sources, in its order.
        all_samples: number of samples in the split, which positions without a mixture take.
    """

    key: str
    seed: int
    mixture: Mixture
    spans: tuple[SourceSpan, ...]
    all_samples: int

    @property
    def num_samples(self) -> int:
        """Samples of all sources of the mixture."""
        return sum(span.samples for span in self.spans)

    def epoch(self, position: int) -> int:
        """The epoch, from 0, by what is due at a position, of the source that is in its highest."""
        if not self._phase(position).columns.size:
            return self._plain.epoch(position)
        return int(np.max(self.due(position) // self._samples))

    def ids(self, first: int, last: int) -> Ids:
        """Sample ids at the positions [first, last): int64, of shape (last - first,).

        Raises:
            ValueError: unless 0 <= first <= last.
        """
        if not 0 <= first <= last:
            raise ValueError(f"positions [{first}, {last}): need 0 <= first <= last")
        return self.ids_at(np.arange(first, last, dtype=np.int64))

    def ids_at(self, positions: NDArray[Any]) -> Ids:
        """Sample ids at any positions: an int64 array of the same shape.

        Raises:
            ValueError: if a position is negative.
        """
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise ValueError(f"position {positions.min()}: must be 0 or greater")
        flat, ids = positions.ravel(), np.empty(positions.size, dtype=np.int64)
        for begin in range(0, flat.size, CHUNK):
            part = slice(begin, begin + CHUNK)
            for phase, here in self._by_phase(flat[part]):
                some = flat[part][here]
                ids[part][here] = (
                    self._ids(phase.taken(some)) if phase.columns.size else self._plain.ids_at(some)
                )
        return ids.reshape(positions.shape)

    def taken_at(self, positions: NDArray[Any]) -> Taken:
        """Source and index of the samples at positions that a mixture is in force at.

        Raises:
            ValueError: at a position without a mixture.
        """
        positions = np.asarray(positions, dtype=np.int64)
        found = Taken(np.empty_like(positions), np.empty_like(positions))
        for phase, here in self._by_phase(positions):
            if not phase.columns.size:
                raise ValueError(f"no mixture is in force at position {positions[here][0]}")
            found.source[here], found.place[here] = phase.taken(positions[here])
        return found

    def counts(self, position: int) -> Ids:
        """Samples of each source that the positions before `position` take: shape (sources,).

        Positions without a mixture don't count.
        """
        return self._phase(position).counts(position)

    def due(self, position: int) -> Floats:
        """Samples of each source that are due before `position`, not rounded: shape (sources,)."""
        phase = self._phase(position)
        found: Floats = phase.due(np.array([position], dtype=np.float64))[0]
        return found

    def sources_of(self, ids: Ids) -> Ids:
        """The number of each sample's source, of the same shape; -1 for none in the mixture."""
        order = np.argsort([span.first for span in self.spans])
        firsts = np.array([self.spans[index].first for index in order])
        found = np.searchsorted(firsts, ids, side="right") - 1
        source: Ids = order[np.maximum(found, 0)]
        ends = np.array([span.first + span.samples for span in self.spans])
        return np.where((found >= 0) & (ids < ends[source]), source, -1)

    # ------------------------------------------------------------------ sources and their samples

    def _ids(self, taken: Taken) -> Ids:
        """The ids of samples, each given by its source and its index there."""
        source, index = taken
        epochs = index // self._samples[source]
        places = (index - epochs * self._samples[source]).astype(np.uint64)
        ids = np.empty(len(source), dtype=np.int64)
        # The permutation of a small source has more rounds than that of a large one.
        for rows in self._few_rounds, ~self._few_rounds:
            here = np.flatnonzero(rows[source])
            if here.size:
                keys = self._keys(source[here], epochs[here])
                grid = OrderGrid(*self._sides[:, source[here]])
                ids[here] = permuted(places[here], grid, keys).astype(np.int64)
        return ids + self._firsts[source]

    def _keys(self, source: Ids, epochs: Ids) -> U64:
        """The keys of each sample's permutation: shape (rounds, samples)."""
        apart = int(epochs.max()) + 1
        pairs, which = _distinct(source * apart + epochs)
        found = [divmod(pair, apart) for pair in pairs.tolist()]
        keys = np.stack([_epoch_keys(self._orders[s], epoch) for s, epoch in found], axis=1)
        return np.take(keys, which, axis=1)

    @cached_property
    def _orders(self) -> list[SampleOrder]:
        return [SampleOrder(key=s.key, seed=self.seed, num_samples=s.samples) for s in self.spans]

    @cached_property
    def _sides(self) -> U64:
        """Size, rows and columns of the sources' grids: shape (3, sources)."""
        sides = [(order.num_samples, *order.grid) for order in self._orders]
        return np.array(sides, dtype=np.uint64).T

    @cached_property
    def _samples(self) -> Ids:
        return np.array([span.samples for span in self.spans], dtype=np.int64)

    @cached_property
    def _few_rounds(self) -> NDArray[np.bool_]:
        return np.asarray(self._samples >= SMALL)

    @cached_property
    def _firsts(self) -> Ids:
        return np.array([span.first for span in self.spans], dtype=np.int64)

    @cached_property
    def _plain(self) -> SampleOrder:
        """The order of positions without a mixture."""
        return SampleOrder(key=self.key, seed=self.seed, num_samples=self.all_samples)

    # ------------------------------------------------------------------------------------- phases

    @cached_property
    def _phases(self) -> list[_Phase]:
        names = [span.name for span in self.spans]
        counts, due = np.zeros(len(names), np.int64), np.zeros(len(names))
        phases: list[_Phase] = []
        for stretch in self.mixture.stretches:
            if phases:
                counts = phases[-1].counts(stretch.start)
                due = phases[-1].due(np.array([stretch.start], dtype=np.float64))[0]
            key = _block_key(f"{self.seed}/{stretch.start}/{self.key}")
            phases.append(_Phase(stretch, names, counts, due, key))
        return phases

    @cached_property
    def _starts(self) -> Ids:
        return np.array([stretch.start for stretch in self.mixture.stretches], dtype=np.int64)

    def _phase(self, position: int) -> _Phase:
        return self._phases[int(np.searchsorted(self._starts, position, side="right")) - 1]

    def _by_phase(self, positions: Ids) -> Iterator[tuple[_Phase, Ids]]:
        """Each phase that positions lie in, and the indices of those that do."""
        which = np.searchsorted(self._starts, positions, side="right") - 1
        for index in np.flatnonzero(np.bincount(which)).tolist():
            yield self._phases[index], np.flatnonzero(which == index)


class _Phase:
    """One stretch of a mixture, as arithmetic.

    Attributes:
        columns: numbers of the sources that have a share in it; none without a mixture.
    """

    def __init__(
        self, stretch: Stretch, names: list[str], counts: Ids, due: Floats, key: np.uint64
    ):
        """Start with what each source has, and what was due of it, at the first position.

        Args:
            stretch: the shares.
            names: names of all sources.
            counts: samples of each source before, shape (sources,).
            due: samples due of each source before, shape (sources,).
            key: key of the order of positions in blocks.
        """
        self._start, self._counts, self._due, self._key = stretch.start, counts, due, key
        number = {name: index for index, name in enumerate(names)}
        self.columns = np.array([number[each.source] for each in stretch.shares], dtype=np.int64)
        self._first = np.array([each.first for each in stretch.shares])
        self._last = np.array([each.last for each in stretch.shares])
        self._begin, self._end = stretch.line
        self._before = self._area(np.array([float(stretch.start)]))
        self._rounding = np.array([_fraction(name) for name in names])
        # Positions of the phase's start that earlier phases without a mixture took.
        self._plain = stretch.start - int(counts.sum())
        ahead = np.maximum(counts - np.floor(due + self._rounding), 0).sum()
        # Blocks by which the block of a position may differ from what their mean length says.
        self._margin = math.ceil((len(names) + float(ahead)) / BLOCK) + 1

    def due(self, positions: Floats) -> Floats:
        """Samples due of each source before some positions: shape (positions, sources)."""
        found = np.repeat(self._due[None], len(positions), axis=0)
        if self.columns.size:
            found[:, self.columns] += self._area(positions) - self._before
        return found

    def _area(self, positions: Floats) -> Floats:
        """The integral of each share from the line's begin: shape (positions, shares).

        Each operation keeps order under rounding, so what is due never shrinks, to the last bit.
        """
        t = positions[:, None]
        if self._begin == self._end:
            return np.asarray((t - self._begin) * self._first)
        length = self._end - self._begin
        x = np.minimum(t, self._end) - self._begin
        bend = (self._last - self._first) / (2 * length)
        rising = self._first * x + bend * (x * x)
        falling = self._last * x - bend * (length * length - (length - x) * (length - x))
        tail = np.maximum(t - self._end, 0.0) * self._last
        return np.asarray(np.where(bend >= 0, rising, falling) + tail)

    def _taken_before(self, blocks: Ids) -> Ids:
        """Samples of each source before some blocks: shape (blocks, sources)."""
        due = self.due(self._start + BLOCK * blocks.astype(np.float64))
        found = np.maximum(np.floor(due + self._rounding).astype(np.int64), self._counts)
        found[blocks == 0] = self._counts
        return np.asarray(found)

    def taken(self, positions: Ids) -> Taken:
        """Source and index of the samples at some positions of the phase, in any order."""
        guessed, _ = _distinct((positions - self._start) // BLOCK)
        if len(guessed) > MOST_BLOCKS and len(positions) > 1:
            halves = [self.taken(half) for half in np.array_split(positions, 2)]
            return Taken(*(np.concatenate(both) for both in zip(*halves, strict=True)))
        blocks, before, bounds, rows = self._located(positions, guessed)
        row, which = _distinct(rows)
        found = self._laid(blocks[row], before[row], before[row + 1])
        lengths = bounds[row + 1] - bounds[row]
        at = (np.cumsum(lengths) - lengths - bounds[row])[which] + positions
        return Taken(found.source[at], found.place[at])

    def _laid(self, blocks: Ids, before: Ids, after: Ids) -> Taken:
        """All positions of some blocks, block after block.

        Args:
            blocks: numbers of the blocks, shape (blocks,).
            before: samples of each source before each block, shape (blocks, sources).
            after: the same after each block.
        """
        in_block = after - before
        lengths, sources = in_block.sum(axis=1), in_block.shape[1]
        block = np.repeat(np.arange(len(blocks)), lengths)
        places = np.arange(len(block)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        # Numbers of the sources as they lie in the blocks before these are shuffled.
        laid = np.repeat(np.tile(np.arange(sources), len(blocks)), in_block.ravel())
        source = np.empty_like(laid)
        source[np.argsort(self._shuffled(places, block, blocks))] = laid
        # In order of blocks and sources, positions lie as `laid` does: so a source's samples are
        # numbered in the order of its positions.
        by_source = np.argsort(
            (block * sources + source).astype(_narrow(in_block.size)), kind="stable"
        )
        index = np.empty_like(source)
        firsts = (before - (np.cumsum(in_block, axis=1) - in_block)).ravel()
        index[by_source] = firsts[block * sources + laid] + places
        return Taken(source, index)

    def _located(self, positions: Ids, guessed: Ids) -> tuple[Ids, Ids, Ids, Ids]:
        """The blocks of some positions, which are guessed by the mean length of a block.

        Returns:
            Some blocks, each position's and the one after it among them; the samples of each source
            before each of them; their first positions; and which of them each position is in.
        """
        for margin in (1, self._margin):
            around = guessed[:, None] + np.arange(-margin, margin + 2)
            blocks, _ = _distinct(np.maximum(around.ravel(), 0))
            before = self._taken_before(blocks)
            bounds = self._plain + before.sum(axis=1)
            row = np.clip(np.searchsorted(bounds, positions, side="right") - 1, 0, len(blocks) - 2)
            within = (bounds[row] <= positions) & (positions < bounds[row + 1])
            if np.all(within & (blocks[row + 1] == blocks[row] + 1)):
                break  # almost always at once
        return blocks, before, bounds, row

    def _shuffled(self, places: Ids, block: Ids, numbers: Ids) -> U64:
        """Numbers, all different, by whose order the places of each block get its slots.

        Args:
            places: places in their blocks, shape (places,).
            block: indices of their blocks, shape (places,).
            numbers: numbers of the blocks in the phase, shape (blocks,).
        """
        of_block = mix64(self._key ^ mix64((numbers.astype(np.uint64) + np.uint64(1)) * ODD))
        place = places.astype(np.uint64)
        hashed = mix64(of_block[block] ^ (place + np.uint64(1)) * ODD)
        # From the left: 16 bits of the block, 32 of a hash, and 16 of the place, against ties.
        hashed >>= np.uint64(32)
        hashed <<= np.uint64(16)
        return (block.astype(np.uint64) << np.uint64(48)) | (hashed & MIDDLE) | place

    def counts(self, position: int) -> Ids:
        """Samples of each source before a position of the phase, or at its end."""
        if not self.columns.size:
            return self._counts
        at = np.array([position])
        blocks, before, bounds, [row] = self._located(at, (at - self._start) // BLOCK)
        here, end = slice(row, row + 1), slice(row + 1, row + 2)
        first = self._laid(blocks[here], before[here], before[end]).source
        first = first[: position - int(bounds[row])]
        return np.asarray(before[row] + np.bincount(first, minlength=before.shape[1]))


def _distinct(values: Ids) -> tuple[Ids, Ids]:
    """The different values, ascending, and for each value its index among them.

    As `numpy.unique`, but without sorting where values lie close together.
    """
    low = int(values.min()) if values.size else 0
    if not values.size or int(values.max()) - low > CLOSE * values.size:
        found, which = np.unique(values, return_inverse=True)
        return found, which
    there = np.bincount(values - low) > 0
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[values - low]


def _narrow(count: int) -> Any:
    """The type of numbers below `count`; NumPy sorts those of 16 bits several times as fast."""
    return np.uint16 if count <= 2**16 else np.int64


@lru_cache(maxsize=4096)
def _epoch_keys(order: SampleOrder, epoch: int) -> U64:
    return order.keys(epoch)


def _fraction(name: str) -> float:
    """A number above 0 and below 1, from a source's name: what is added before rounding down."""
    digest = hashlib.blake2b(name.encode(), digest_size=4, person=PERSON).digest()
    return (int.from_bytes(digest, "little") + 0.5) / 2**32


def _block_key(text: str) -> np.uint64:
    """The key of the order of positions in blocks."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=PERSON).digest()
    return np.uint64(int.from_bytes(digest, "little"))

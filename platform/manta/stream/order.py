"""The sample order: which sample is at which position, in O(1) memory.

Index spaces, from the outside in:

- *position*: 0, 1, 2, …, an index into the run's endless sequence of samples.
- *epoch*: ``position // N`` for a split of N samples. Each epoch is a permutation of its own.
- *place*: ``position % N``, an index into the epoch, in [0, N).
- *id*: a sample's number in the split, in [0, N).
- *cell*: a pair (row, column) of an a × b grid with at least N and fewer than N + a cells,
  numbered by columns; the first N numbers are places and ids.

place → id is a keyed pseudo-random permutation: a Feistel network on the grid. Rows are
shifted, modulo a, by a hash of the column, then columns, modulo b, by a hash of the row,
and so on; each round is invertible, so the network is a bijection of the grid. A result
of N or more goes through the network again until it is below N ("cycle walking"), which
makes it a bijection of [0, N). Black & Rogaway, "Ciphers with Arbitrary Finite Domains"
(CT-RSA 2002), is the source of both; as a ≈ b ≈ √N, about one id in √N walks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from manta.stream.mix import U64, mix64

Ids = NDArray[np.int64]

# Grids have at most 2^31 × 2^31 cells, so that a 32-bit hash times a side fits into 64 bits.
MOST_SAMPLES = 2**62
# Rounds of the network. Four suffice on a large grid (Luby & Rackoff, 1988; Patarin, 2004). On a
# tiny one each round has few functions to choose from: simulated with truly random functions, some
# pairs of ids stay more frequent than others after 8 rounds for N up to about 40, and some
# permutations after 16 rounds for N = 5.
ROUNDS, ROUNDS_IF_SMALL, SMALL = 8, 24, 1024
KEYS_IN_DIGEST = 8  # 64-bit keys in one blake2b digest
# Version of the order. A change of the order would make resumed runs repeat and miss samples.
PERSON = b"manta.order.v1"


class Order(Protocol):
    """Which sample is at which position, with one space of ids over all sources."""

    @property
    def num_samples(self) -> int:
        """Number of samples that the order takes, each once an epoch."""
        ...

    def epoch(self, position: int) -> int:
        """The epoch at a position, from 0."""
        ...

    def ids(self, first: int, last: int) -> Ids:
        """Sample ids at the positions [first, last): int64, of shape (last - first,)."""
        ...

    def ids_at(self, positions: NDArray[Any]) -> Ids:
        """Sample ids at any positions: an int64 array of the same shape."""
        ...


@dataclass(frozen=True, kw_only=True)
class SampleOrder:
    """The order of the samples of one split, for one seed.

    Attributes:
        key: name of the set that ids index: the corpus fingerprint, "/", the split.
        seed: the run's seed; any integer.
        num_samples: N, the samples in the split, 1 to 2^62.
    """

    key: str
    seed: int
    num_samples: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_samples <= MOST_SAMPLES:
            raise ValueError(f"num_samples = {self.num_samples}: must be 1 to 2^62")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid: a = ⌈√N⌉ and b = ⌈N / a⌉."""
        rows = math.isqrt(self.num_samples - 1) + 1
        return rows, -(-self.num_samples // rows)

    def epoch(self, position: int) -> int:
        """The epoch in which a position lies, from 0."""
        return position // self.num_samples

    def ids(self, first: int, last: int) -> Ids:
        """Sample ids at the positions [first, last): int64, of shape (last - first,).

        Raises:
            ValueError: unless 0 <= first <= last.
        """
        if not 0 <= first <= last:
            raise ValueError(f"positions [{first}, {last}): need 0 <= first <= last")
        parts: list[U64] = []
        while first < last:
            epoch, place = divmod(first, self.num_samples)
            count = min(last - first, self.num_samples - place)
            places = np.arange(place, place + count, dtype=np.uint64)
            parts.append(self._permute(places, epoch))
            first += count
        if len(parts) == 1:
            return parts[0].astype(np.int64)
        ids: U64 = np.concatenate([np.empty(0, np.uint64), *parts])
        return ids.astype(np.int64)

    def ids_at(self, positions: NDArray[Any]) -> Ids:
        """Sample ids at any positions: an int64 array of the same shape.

        Raises:
            ValueError: if a position is negative.
        """
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise ValueError(f"position {positions.min()}: must be 0 or greater")
        epochs = positions // self.num_samples
        places = (positions - epochs * self.num_samples).astype(np.uint64)
        ids: U64 = np.empty(positions.shape, dtype=np.uint64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            ids[here] = self._permute(places[here], int(epoch))
        return ids.astype(np.int64)

    def _permute(self, places: U64, epoch: int) -> U64:
        """Ids at the places of one epoch."""
        rows, columns = map(np.uint64, self.grid)
        return permuted(
            places, OrderGrid(np.uint64(self.num_samples), rows, columns), self.keys(epoch)
        )

    def keys(self, epoch: int) -> U64:
        """One 64-bit key a round, for one epoch: shape (rounds,)."""
        rounds = ROUNDS_IF_SMALL if self.num_samples < SMALL else ROUNDS
        text = f"{self.seed}/{epoch}/{self.num_samples}/{self.key}".encode()
        digests = [
            hashlib.blake2b(text, person=PERSON, salt=block.to_bytes(8, "little")).digest()
            for block in range(rounds // KEYS_IN_DIGEST)
        ]
        return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def order_key(fingerprint: str, split: str) -> str:
    """The name of a split of a corpus, by which its samples are ordered."""
    return f"{fingerprint}/{split}"


class OrderGrid(NamedTuple):
    """The grid of a permutation of [0, size); each may differ from place to place, as an array."""

    size: np.uint64 | U64
    rows: np.uint64 | U64
    columns: np.uint64 | U64

    def at(self, where: NDArray[np.int64]) -> OrderGrid:
        """The grid of some places only."""
        return OrderGrid(*(_at(side, where) for side in self))


def permuted(places: U64, grid: OrderGrid, keys: Sequence[np.uint64] | U64) -> U64:
    """The numbers that a keyed permutation has at `places`: shape (places,).

    Args:
        places: numbers below the grid's size, shape (places,).
        grid: the grid, of all places or of each.
        keys: a key a round, or for each round a key for each place: (rounds,) or (rounds, places).
    """
    ids = _shuffle_grid(places, grid, keys)
    outside = np.flatnonzero(ids >= grid.size)
    while outside.size:
        again = _shuffle_grid(ids[outside], grid.at(outside), [_at(key, outside) for key in keys])
        ids[outside] = again
        outside = outside[again >= _at(grid.size, outside)]
    return ids


def _at(value: Any, where: NDArray[np.int64]) -> Any:
    """The values of some places; a scalar is that of all."""
    return value[where] if np.ndim(value) else value


def _shuffle_grid(cells: U64, grid: OrderGrid, keys: Sequence[np.uint64] | U64) -> U64:
    """The Feistel network: a bijection of [0, rows × columns), cells numbered by columns."""
    column = cells.copy()
    column //= grid.rows
    row = cells - column * grid.rows
    for index in range(0, len(keys), 2):
        _shift(row, by=column, key=keys[index], modulus=grid.rows)
        _shift(column, by=row, key=keys[index + 1], modulus=grid.columns)
    column *= grid.rows
    column += row
    return column


def _shift(values: U64, *, by: U64, key: Any, modulus: Any) -> None:
    """Add to each of `values`, modulo `modulus`, a keyed hash of `by`. In place."""
    hashed = mix64(by ^ key)
    hashed >>= np.uint64(32)
    # 32 bits scaled to [0, modulus) by a multiplication, as % would need a division (Lemire, 2019).
    hashed *= modulus
    hashed >>= np.uint64(32)
    values += hashed
    # values < 2 * modulus. A subtraction below zero wraps to a huge number, never the minimum.
    np.minimum(values, values - modulus, out=values)

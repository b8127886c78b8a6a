"""The sample order is a bijection of each epoch, looks random, and never changes."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.stream.order import MOST_SAMPLES, SampleOrder


def order(num_samples, seed=0, key="corpus/train"):
    return SampleOrder(key=key, seed=seed, num_samples=num_samples)


# The network once more, with plain Python integers and both directions: an oracle.

MASK = 2**64 - 1


def reference_mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


class Reference:
    def __init__(self, num_samples, seed=0, key="corpus/train", epoch=0):
        self.n = num_samples
        self.a = math.isqrt(num_samples - 1) + 1
        self.b = (num_samples + self.a - 1) // self.a
        text = f"{seed}/{epoch}/{num_samples}/{key}".encode()
        self.keys = []
        for block in range(3 if num_samples < 1024 else 1):
            salt = bytes([block]) + bytes(7)
            raw = hashlib.blake2b(text, person=b"manta.order.v1", salt=salt).digest()
            self.keys += [int.from_bytes(raw[i : i + 8], "little") for i in range(0, 64, 8)]

    def hashed(self, value, index, modulus):
        return (reference_mix(value ^ self.keys[index]) >> 32) * modulus >> 32

    def forward(self, cell):
        column, row = divmod(cell, self.a)
        for index in range(0, len(self.keys), 2):
            row = (row + self.hashed(column, index, self.a)) % self.a
            column = (column + self.hashed(row, index + 1, self.b)) % self.b
        return column * self.a + row

    def backward(self, cell):
        column, row = divmod(cell, self.a)
        for index in reversed(range(0, len(self.keys), 2)):
            column = (column - self.hashed(row, index + 1, self.b)) % self.b
            row = (row - self.hashed(column, index, self.a)) % self.a
        return column * self.a + row

    def walk(self, turn, value):
        value = turn(value)
        while value >= self.n:
            value = turn(value)
        return value

    def id_of(self, place):
        return self.walk(self.forward, place)

    def place_of(self, sample):
        return self.walk(self.backward, sample)


# Bijection.


@pytest.mark.parametrize("low", range(1, 2001, 250))
def test_every_small_epoch_is_a_permutation(low):
    for n in range(low, low + 250):
        ids = order(n, seed=n).ids(0, n)
        assert np.array_equal(np.bincount(ids, minlength=n), np.ones(n, int)), n


@settings(max_examples=40, deadline=None)
@given(st.integers(2001, 300_000), st.integers(0, 2**63 - 1), st.integers(0, 5))
def test_larger_epochs_are_permutations(n, seed, epoch):
    ids = order(n, seed).ids(epoch * n, (epoch + 1) * n)
    assert np.array_equal(np.sort(ids), np.arange(n))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2**40), st.integers(0, 2**63 - 1), st.data())
def test_huge_epochs_can_be_inverted(n, seed, data):
    """The inverse network leads each id back to its place: so no two places share one."""
    places = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    ids = order(n, seed).ids_at(np.array(places))
    reference = Reference(n, seed)
    assert [reference.place_of(int(sample)) for sample in ids] == places
    assert [reference.id_of(place) for place in places] == ids.tolist()


@pytest.mark.parametrize("n", [2**40, 2**40 + 1, 2**40 - 87, MOST_SAMPLES - 1, MOST_SAMPLES])
def test_windows_of_huge_epochs_hold_no_id_twice(n):
    for first in (0, n // 3, n - 200_000):
        ids = order(n).ids(first, first + 200_000)
        assert np.unique(ids).size == ids.size
        assert ids.min() >= 0
        assert ids.max() < n


def test_the_whole_range_of_sizes_agrees_with_the_reference():
    for n in [*range(1, 40), 1023, 1024, 1025, 10**9, 2**61 + 3, MOST_SAMPLES]:
        reference = Reference(n, seed=7, epoch=3)
        first = 3 * n
        ids = order(n, seed=7).ids(first, first + min(n, 30))
        assert ids.tolist() == [reference.id_of(place) for place in range(min(n, 30))]


# Spans.


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(0, 120), st.integers(0, 60))
def test_a_span_across_epochs_is_its_parts(n, first, count):
    subject = order(n)
    ids = subject.ids(first, first + count)
    assert ids.dtype == np.int64
    assert ids.shape == (count,)
    one_by_one = [int(subject.ids(p, p + 1)[0]) for p in range(first, first + count)]
    assert ids.tolist() == one_by_one
    assert subject.ids_at(np.arange(first, first + count)).tolist() == one_by_one


def test_ids_at_keeps_the_shape_and_takes_any_order():
    positions = np.array([[250, 3, 99], [100, 3, 777]])
    ids = order(100).ids_at(positions)
    assert ids.shape == (2, 3)
    assert ids.dtype == np.int64
    whole = order(100).ids(0, 800)
    assert np.array_equal(ids, whole[positions])
    assert order(100).ids_at(np.array([], dtype=np.int64)).shape == (0,)


def test_ids_at_leaves_its_argument_alone():
    positions = np.arange(50)
    order(20).ids_at(positions)
    assert np.array_equal(positions, np.arange(50))


def test_the_epoch_of_a_position():
    subject = order(10)
    assert [subject.epoch(p) for p in (0, 9, 10, 19, 20)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(("first", "last"), [(-1, 5), (5, 4), (-5, -1)])
def test_impossible_spans_are_refused(first, last):
    with pytest.raises(ValueError, match="need 0 <= first <= last"):
        order(10).ids(first, last)


def test_negative_positions_are_refused():
    with pytest.raises(ValueError, match="position -3"):
        order(10).ids_at(np.array([4, -3]))


@pytest.mark.parametrize("n", [0, -1, MOST_SAMPLES + 1])
def test_impossible_sizes_are_refused(n):
    with pytest.raises(ValueError, match="num_samples"):
        order(n)


def test_an_order_is_immutable_and_comparable():
    with pytest.raises(AttributeError):
        order(10).seed = 5
    assert order(10) == order(10)
    assert order(10) != order(10, seed=1)


# Randomness. Seeds are fixed, so these can't fail by bad luck; the bounds are 5 sigma or so.


def test_epochs_seeds_and_keys_give_unrelated_orders():
    n = 20_000
    base = order(n).ids(0, n)
    others = [
        order(n).ids(n, 2 * n),
        order(n, seed=1).ids(0, n),
        order(n, key="corpus/validation").ids(0, n),
        order(n + 1).ids(0, n),
    ]
    for other in others:
        assert np.mean(base == other) < 10 / n  # a random pair agrees at one place
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("n", range(2, 13))
def test_every_sample_is_as_likely_at_every_place(n):
    seeds = 1000
    ids = np.stack([order(n, seed=seed).ids(0, n) for seed in range(seeds)])
    counts = np.stack([np.bincount(ids[:, place], minlength=n) for place in range(n)])
    expected = seeds / n
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < _chi2_bound((n - 1) ** 2)


@pytest.mark.parametrize("n", [4, 5, 6])
def test_every_permutation_is_as_likely(n):
    """For 9 samples and more it can't be: shifts by an odd modulus never swap just two."""
    seeds = 5000
    ids = np.stack([order(n, seed=seed).ids(0, n) for seed in range(seeds)])
    counts = np.unique(ids @ n ** np.arange(n), return_counts=True)[1]
    every = math.factorial(n)
    missing = every - len(counts)
    chi2 = ((counts - seeds / every) ** 2).sum() / (seeds / every) + missing * seeds / every
    assert chi2 < _chi2_bound(every - 1)


def _chi2_bound(degrees):
    """Mean and five standard deviations, and room for the tail of few degrees."""
    return degrees + 5 * np.sqrt(2 * degrees) + 8


SIZES = [1000, 4096, 65_536, 100_003, 2**40, 10**12 + 39]


@pytest.mark.parametrize("n", SIZES)
def test_neighbours_are_unrelated(n):
    count = min(n, 100_000)
    ids = order(n).ids(0, count).astype(np.float64) / n
    grid = int(np.ceil(np.sqrt(n)))
    for lag in [1, 2, 3, 7, 64, *(x for x in (grid - 1, grid, grid + 1) if x < count // 2)]:
        correlation = np.corrcoef(ids[:-lag], ids[lag:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(count - lag), lag


@pytest.mark.parametrize("n", SIZES)
def test_ids_are_spread_evenly(n):
    """Over the split, over the rows and over the columns of the grid, early in the epoch."""
    count = min(n // 4, 100_000)
    ids = order(n, seed=3).ids(0, count)
    side = int(np.ceil(np.sqrt(n)))
    for values, size in ((ids, n), (ids % side, side), (ids // side, -(-n // side))):
        buckets = min(64, size)
        edges = (np.arange(buckets + 1) * size) // buckets
        weights = np.diff(edges) / size
        seen = np.histogram(values, bins=edges)[0]
        chi2 = ((seen - count * weights) ** 2 / (count * weights)).sum()
        assert chi2 < _chi2_bound(buckets - 1)


@pytest.mark.parametrize("n", SIZES)
def test_places_do_not_tell_where_their_sample_is(n):
    count = min(n, 100_000)
    places = np.linspace(0, n - 1, count).astype(np.int64)
    ids = order(n, seed=5).ids_at(places)
    assert abs(np.corrcoef(places, ids)[0, 1]) < 5 / np.sqrt(count)
    # The mean distance between two random places is a third of the whole.
    assert np.abs(places - ids).mean() / n == pytest.approx(1 / 3, abs=5 * 0.24 / np.sqrt(count))


@pytest.mark.parametrize("n", SIZES)
def test_neighbouring_places_fall_into_independent_buckets(n):
    """A two-dimensional chi-square: what a correlation, a straight line, does not see."""
    count = min(n, 100_000) - 1
    buckets = 8 if n > 2000 else 4
    ids = order(n, seed=9).ids(0, count + 1)
    bucket = (ids.astype(np.float64) / n * buckets).astype(int)
    pairs = np.bincount(bucket[:-1] * buckets + bucket[1:], minlength=buckets**2)
    expected = count / buckets**2
    chi2 = ((pairs - expected) ** 2 / expected).sum()
    assert chi2 < _chi2_bound(buckets**2 - 1)


def test_few_ids_walk():
    """Cycle walking must stay rare, or a trillion-token corpus would pay for it."""
    for n in [10**6 + 1, 10**9 + 7, 2**40 - 87]:
        rows, columns = order(n).grid
        assert 0 <= rows * columns - n < rows


# The contract with runs that are under way.

GOLDEN = {
    (10, 0, 0): [5, 1, 6, 0, 8, 3, 7, 2],
    (5000, 42, 0): [3627, 4069, 2023, 1509, 929, 305, 4078, 851],
    (5000, 42, 999_997): [4933, 2138, 3448, 4168, 1997, 2119, 184, 507],
    (2**40, 7, 123_456_789): [
        *(384464004151, 900043601311, 948119775544, 924218252489),
        *(802496298401, 1098483455182, 326130519865, 712894831203),
    ],
}


@pytest.mark.parametrize(("n", "seed", "first"), GOLDEN)
def test_the_order_never_changes(n, seed, first):
    """Pinned: any change of these numbers would make resumed runs repeat and miss samples.

    If the order must change, give it a new `PERSON` and a way for old runs to keep theirs.
    """
    ids = order(n, seed, key="0123abcd/train").ids(first, first + 8)
    assert ids.tolist() == GOLDEN[n, seed, first]

"""Hash, split law, duplicates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.config.corpus import SplitSection
from manta.corpus.documents import (
    HASH_BYTES,
    content_hash,
    first_occurrences,
    sample_priority,
    split_bounds,
    split_of,
)

texts = st.lists(st.binary(max_size=4), max_size=40)
weights = st.builds(
    SplitSection,
    train=st.floats(0.001, 0.4),
    validation=st.one_of(st.just(0.0), st.floats(0.001, 0.3)),
    test=st.one_of(st.just(0.0), st.floats(0.001, 0.3)),
)


def hashes_of(contents: list[bytes]) -> np.ndarray:
    joined = b"".join(map(content_hash, contents))
    return np.frombuffer(joined, np.uint8).reshape(-1, HASH_BYTES)


@given(texts, texts, weights)
def test_a_document_stays_in_its_split_whatever_else_is_in_the_corpus(old, new, section):
    bounds = split_bounds(section)
    grown = hashes_of(new + old)

    assert (split_of(grown, bounds)[len(new) :] == split_of(hashes_of(old), bounds)).all()


@given(texts, weights)
def test_splits_are_intervals_of_the_last_half_of_the_hash(contents, section):
    ends = split_bounds(section)
    places = [int.from_bytes(content_hash(content)[8:]) for content in contents]
    expected = [sum(place >= end for end in ends) for place in places]

    assert split_of(hashes_of(contents), ends).tolist() == expected


def test_splits_get_their_weights():
    hashes = hashes_of([str(i).encode() for i in range(20_000)])
    bounds = split_bounds(SplitSection(train=0.3, validation=0.15, test=0.05))

    shares = np.bincount(split_of(hashes, bounds), minlength=3) / len(hashes)

    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.015)
    assert bounds[-1] == 2**64


def test_a_split_of_weight_zero_gets_nothing():
    hashes = np.full((3, HASH_BYTES), 255, np.uint8)  # the very end of the line

    assert split_of(hashes, split_bounds(SplitSection(validation=0, test=0))).tolist() == [0] * 3
    assert split_of(hashes, split_bounds(SplitSection(test=0))).tolist() == [1] * 3


def test_the_sample_is_drawn_independently_of_the_split():
    hashes = hashes_of([str(i).encode() for i in range(20_000)])
    drawn = sample_priority(hashes) < np.uint64(2**62)
    test = split_of(hashes, split_bounds(SplitSection(train=0.5, validation=0, test=0.5))) == 2

    assert drawn.mean() == pytest.approx(0.25, abs=0.02)
    assert drawn[test].mean() == pytest.approx(0.25, abs=0.02)


@given(texts)
def test_the_first_of_equal_documents_is_kept(contents):
    seen: set[bytes] = set()
    expected = [not (content in seen or seen.add(content)) for content in contents]

    assert first_occurrences(hashes_of(contents)).tolist() == expected


def test_hashes_that_share_one_half_are_different():
    same_first = np.zeros((3, HASH_BYTES), np.uint8)
    same_first[:, 15] = [1, 2, 1]

    assert first_occurrences(same_first).tolist() == [True, True, False]

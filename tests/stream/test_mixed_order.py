"""The order of a mixture: each source's share is exact at any position, and so is each source."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.config.mixture import MixtureSection
from manta.schedule.shares import Mixture
from manta.stream.mixed_order import BLOCK, MixedOrder, SourceSpan

SEQ = 8
# The laws hold at any length, and a few blocks show them.
HORIZON = 12 * BLOCK * SEQ


def order_of(
    section: dict[str, Any], sizes: dict[str, int], seed: int = 0, horizon: int = HORIZON
) -> MixedOrder:
    """The order of a mixture whose sources lie one after the other."""
    mixture = Mixture.resolve(MixtureSection.model_validate(section), sizes, horizon, SEQ)
    spans, first = {}, 0
    for name, samples in sizes.items():
        spans[name] = SourceSpan(name, f"corpus/train/{name}", first, samples)
        first += samples
    found = tuple(spans[name] for name in mixture.sources)
    return MixedOrder(
        key="corpus/train", seed=seed, mixture=mixture, spans=found, all_samples=first
    )


WEB_TO_CODE = {
    "sources": {
        "web": {"weight": [{"from": 90, "until": "70%"}, {"shape": "linear", "to": 60}]},
        "code": {"weight": [{"from": 10, "until": "70%"}, {"shape": "linear", "to": 40}]},
    }
}
SIZES = {"web": 700, "code": 150}

# Mixtures of up to six sources, whose weights change up to three times, to and from 0 as well.
weights = st.sampled_from([0, 0.3, 1, 2.5, 40])
curves = st.lists(st.tuples(weights, weights), min_size=1, max_size=4).map(
    lambda pieces: [
        {"shape": "linear", "from": first, "to": last, "until": f"{100 * (i + 1) // len(pieces)}%"}
        for i, (first, last) in enumerate(pieces)
    ]
)


@st.composite
def orders(draw: Any) -> MixedOrder:
    count = draw(st.integers(1, 6))
    # The last source always has a weight, so that there is always something to take.
    given = {f"s{i}": {"weight": draw(curves)} for i in range(count - 1)}
    taken = {name: each for name, each in given.items() if any_weight(each["weight"])}
    sources = {**taken, "last": {"weight": draw(st.sampled_from([0.5, 10]))}}
    sizes = {name: draw(st.integers(1, 900)) for name in sources}
    section = {"sources": sources, "temperature": draw(st.sampled_from([1.0, 3.0]))}
    return order_of(section, sizes, seed=draw(st.integers(0, 9)))


def any_weight(segments: list[dict[str, Any]]) -> bool:
    return any(each["from"] or each["to"] for each in segments)


def counts_at(order: MixedOrder, position: int) -> np.ndarray[Any, Any]:
    taken = order.taken_at(np.arange(position))
    return np.bincount(taken.source, minlength=len(order.spans))


@settings(max_examples=60, deadline=None)
@given(orders(), st.integers(0, 12 * BLOCK))
def test_no_source_is_off_by_more_than_one_block(order: MixedOrder, position: int) -> None:
    """Neither at the start nor after ten blocks, nor where shares jump, nor at shares near 0."""
    counts, due = order.counts(position), order.due(position)

    assert np.array_equal(counts, counts_at(order, position)), "the closed form is the count"
    assert counts.sum() == position
    # What a block has of a source at its largest share, and the rounding of each source.
    largest = max(max(each.first, each.last) for s in order.mixture.stretches for each in s.shares)
    assert np.abs(counts - due).max() <= largest * (BLOCK + len(order.spans)) + 1
    assert due.sum() == pytest.approx(position)


@settings(max_examples=60, deadline=None)
@given(orders(), st.integers(1, 12 * BLOCK))
def test_a_source_gives_its_samples_in_its_own_order(order: MixedOrder, positions: int) -> None:
    """So it gives each once an epoch, and the next epoch begins when all were given."""
    taken, ids = order.taken_at(np.arange(positions)), order.ids(0, positions)
    for number, span in enumerate(order.spans):
        mine = taken.source == number
        assert np.array_equal(taken.place[mine], np.arange(mine.sum()))
        for begin in range(0, int(mine.sum()), span.samples):
            epoch = ids[mine][begin : begin + span.samples]
            assert len(set(epoch.tolist())) == len(epoch), "no sample twice"
            assert epoch.min() >= span.first
            assert epoch.max() < span.first + span.samples


@settings(max_examples=60, deadline=None)
@given(orders(), st.lists(st.integers(0, 20 * BLOCK), min_size=1, max_size=40))
def test_a_position_has_one_sample_however_it_is_asked_for(
    order: MixedOrder, positions: list[int]
) -> None:
    """Any rank, world size, block or resume asks for positions of its own."""
    whole = order.ids(0, 20 * BLOCK + 1)
    assert np.array_equal(order.ids_at(np.array(positions)), whole[positions])
    middle = positions[0]
    assert np.array_equal(order.ids(middle // 2, middle), whole[middle // 2 : middle])
    assert np.array_equal(order.sources_of(whole), order.taken_at(np.arange(len(whole))).source)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, HORIZON - 1), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from([1, 5, 60]), min_size=4, max_size=4),
)
def test_a_change_of_shares_changes_nothing_before_it(changes: list[int], after: list[int]) -> None:
    """Of a config that jumps, and of forks: each keeps what was before, and goes on with it."""
    parts: list[dict[str, Any]] = [WEB_TO_CODE] + [
        {"sources": {"web": {"weight": weight}, "code": {"weight": 10}}} for weight in after
    ]
    before = order_of(parts[0], SIZES)
    history: list[dict[str, Any]] = []
    for change, then, now in zip(sorted(changes), parts, parts[1:], strict=False):
        history.append({"until": change, "mixture": then})
        forked = order_of({**now, "history": history}, SIZES)
        same = -(-change // SEQ)
        assert np.array_equal(forked.ids(0, same), before.ids(0, same))
        end = 14 * BLOCK
        taken = forked.taken_at(np.arange(end))
        for number in range(2):
            mine = taken.place[taken.source == number]
            assert np.array_equal(mine, np.arange(len(mine))), "a source goes on where it was"
        before = forked


def test_shares_that_jump_share_what_is_before_with_shares_that_do_not() -> None:
    """Also within a block that is cut: a sweep trains the beginning once."""
    plain = order_of({"sources": {"web": {"weight": 9}, "code": {"weight": 1}}}, SIZES)
    cut = 3 * BLOCK + 17
    jumping = order_of(
        {
            "sources": {
                "web": {"weight": [{"from": 9, "until": cut * SEQ}, {"from": 1}]},
                "code": {"weight": 1},
            }
        },
        SIZES,
    )
    assert np.array_equal(plain.ids(0, cut), jumping.ids(0, cut))
    assert not np.array_equal(plain.ids(cut, cut + 99), jumping.ids(cut, cut + 99))


def test_a_mixture_after_none_begins_its_sources_anew() -> None:
    mixed = {"sources": {"web": {}, "code": {}}}
    order = order_of({**mixed, "history": [{"until": 100 * SEQ}]}, SIZES)
    plain = order_of(mixed, SIZES)._plain
    assert np.array_equal(order.ids(0, 100), plain.ids(0, 100))
    assert order.counts(100).tolist() == [0, 0]
    assert order.counts(100 + 1700).sum() == 1700
    taken = order.taken_at(np.arange(100, 900))
    assert sorted(taken.place[taken.source == 1]) == list(range(int((taken.source == 1).sum())))
    assert (order.epoch(99), order.epoch(850 + 100 + BLOCK)) == (0, 1)
    with pytest.raises(ValueError, match="no mixture is in force at position 0"):
        order.taken_at(np.arange(200))


def test_errors_do_not_add_up_over_ten_trillion_positions() -> None:
    """With shares in thirds and sevenths, which no float has exactly, and a line over all."""
    count, end = 100, 10**13
    sources: dict[str, Any] = {f"s{i}": {"weight": 1 + i % 7} for i in range(count - 1)}
    sources["ramp"] = {"weight": [{"shape": "linear", "from": 0, "to": 100}]}
    sizes = dict.fromkeys(sources, 10**12 + 39)
    order = order_of({"sources": sources}, sizes, horizon=end)
    for position in (1, 10**6 + 7, 10**12 + 3, end // SEQ - 5, end // SEQ + 10**6):
        counts, due = order.counts(position), order.due(position)
        assert counts.sum() == position
        assert np.abs(counts - due).max() < 12
        ids = order.ids(position, position + 3 * BLOCK)
        assert len(set(ids.tolist())) == 3 * BLOCK
        assert np.array_equal(
            order.sources_of(ids), order.taken_at(np.arange(position, position + 3 * BLOCK)).source
        )


def test_blocks_are_shuffled() -> None:
    """Neighbours are of one source as often as by chance, not in turns."""
    order = order_of({"sources": {"web": {"weight": 1}, "code": {"weight": 1}}}, SIZES)
    source = order.taken_at(np.arange(10 * BLOCK)).source
    alike = float((source[1:] == source[:-1]).mean())
    assert 0.44 < alike < 0.56
    other = order_of({"sources": {"web": {}, "code": {}}}, SIZES, seed=1)
    same = order_of({"sources": {"web": {}, "code": {}}}, SIZES, seed=1)
    assert other.ids(0, 64).tolist() == same.ids(0, 64).tolist()
    first = order_of({"sources": {"web": {}, "code": {}}}, SIZES)
    assert other.ids(0, 64).tolist() != first.ids(0, 64).tolist()


def test_it_never_changes() -> None:
    """A resumed run goes on by the same order, whatever version goes on with it."""
    order = order_of(WEB_TO_CODE, SIZES, seed=7)
    ids = order.ids(0, 14 * BLOCK).astype("<i8").tobytes()
    assert hashlib.sha256(ids).hexdigest()[:16] == "01fe181d1ed019fd"


def test_positions_below_0_and_behind_each_other_are_refused() -> None:
    order = order_of(WEB_TO_CODE, SIZES)
    with pytest.raises(ValueError, match="position -1: must be 0 or greater"):
        order.ids_at(np.array([-1, 3]))
    with pytest.raises(ValueError, match=r"positions \[3, 2\)"):
        order.ids(3, 2)
    assert order.ids(5, 5).shape == (0,)
    assert order.ids_at(np.arange(6).reshape(2, 3)).shape == (2, 3)

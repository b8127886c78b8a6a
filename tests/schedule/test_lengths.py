"""Lengths of rows over tokens: what is asked for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.config.errors import ConfigError
from manta.config.train import TrainSection
from manta.schedule.lengths import Lengths, in_tokens, tokens_alike, words


def section(*warmup: tuple[Any, int], seq_len: int = 64) -> TrainSection:
    pieces = [{"until": until, "length": length} for until, length in warmup]
    return TrainSection.model_validate({"seq_len": seq_len, "seq_len_warmup": pieces})


def test_a_length_holds_until_its_end() -> None:
    lengths = Lengths.resolve(section(("10%", 16), (500, 32)), 1000)
    assert [lengths.at(tokens) for tokens in (0, 99, 100, 499, 500, 10_000)] == [
        *(16, 16, 32, 32, 64, 64)
    ]
    assert lengths.pieces_at(0) == 4
    assert words(lengths) == "rows of 16 until 100 tokens, 32 until 500 tokens, then 64"
    assert Lengths.resolve(section(), 1000).pieces_at(0) == 1


@pytest.mark.parametrize(
    ("warmup", "said"),
    [
        ([("10%", 24)], r"seq_len_warmup\.0\.length = 24: must divide train\.seq_len = 64"),
        ([("10%", 64)], r"seq_len_warmup\.0\.length = 64: .*and be less"),
        ([("20%", 16), ("10%", 32)], r"seq_len_warmup\.1\.until = 10%: is not after .* 200 tokens"),
    ],
)
def test_what_can_not_be_is_named(warmup: list[tuple[str, int]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Lengths.resolve(section(*warmup), 1000)


DRAWN = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([4, 8, 16, 32])), unique_by=lambda each: each[0]
).map(lambda ends: Lengths(64, tuple(sorted(ends))))


@given(DRAWN, DRAWN)
def test_two_are_alike_up_to_the_first_difference(a: Lengths, b: Lengths) -> None:
    alike = tokens_alike(a, b)
    differ = [tokens for tokens in range(50) if a.at(tokens) != b.at(tokens)]
    assert alike == (differ[0] if differ else float("inf")) == tokens_alike(b, a)


@given(st.integers(1, 100), st.integers(1, 10**6), st.integers(1, 10**6))
def test_ends_in_tokens_are_the_same_at_another_horizon(percent: int, one: int, two: int) -> None:
    asked = section((f"{percent}%", 16))
    assert Lengths.resolve(in_tokens(asked, one), two) == Lengths.resolve(asked, one)

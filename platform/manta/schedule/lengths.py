"""Sequence length as a function of the tokens consumed: samples that are seen in pieces at first.

A sample is always `train.seq_len` tokens, so order, clock and ledger know nothing of lengths. At a
shorter length each sample is cut into equal pieces, which a model sees as rows of their own: the
same tokens are trained on, with less context (Li et al., 2022, "The Stability-Efficiency Dilemma",
arXiv:2108.06084).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from manta.config.errors import ConfigError
from manta.config.train import LengthSegment, TrainSection
from manta.config.units import format_tokens
from manta.schedule.resolve import exact_tokens

KEY = "train.seq_len_warmup"


@dataclass(frozen=True)
class Lengths:
    """The length of the rows that a model sees, in tokens.

    Attributes:
        whole: tokens of a sample, and of a row from the last end on.
        ends: ascending: the tokens consumed until which a length holds, and the length.
    """

    whole: int
    ends: tuple[tuple[int, int], ...] = ()

    @classmethod
    def resolve(cls, section: TrainSection, horizon: int) -> Lengths:
        """The lengths that a config asks for.

        Args:
            section: the section `train`.
            horizon: tokens of the run, to which percentages refer.

        Raises:
            ConfigError: naming the key and the remedy.
        """
        ends: list[tuple[int, int]] = []
        for index, each in enumerate(section.seq_len_warmup):
            end = math.floor(exact_tokens(each.until, horizon))
            _check_length(f"{KEY}.{index}.length", each.length, section.seq_len)
            if ends and end <= ends[-1][0]:
                raise ConfigError(
                    f"{KEY}.{index}.until = {each.until}: is not after the end before it, at "
                    f"{format_tokens(ends[-1][0])} tokens; put the lengths in order"
                )
            ends.append((end, each.length))
        return cls(section.seq_len, tuple(ends))

    def at(self, tokens: int) -> int:
        """The length of a step before which `tokens` tokens were consumed."""
        return next((length for end, length in self.ends if tokens < end), self.whole)

    def pieces_at(self, tokens: int) -> int:
        """The number of rows that a sample is in such a step."""
        return self.whole // self.at(tokens)


def tokens_alike(a: Lengths, b: Lengths) -> float:
    """Tokens consumed, from the start on, up to which both have the same length; else infinity."""
    if a.whole != b.whole:
        return 0
    marks = sorted({0, *(end for end, _ in (*a.ends, *b.ends))})
    return next((mark for mark in marks if a.at(mark) != b.at(mark)), math.inf)


def in_tokens(section: TrainSection, horizon: int) -> TrainSection:
    """The section `train` with ends in tokens, which stay what they are at another horizon."""
    ends = Lengths.resolve(section, horizon).ends
    pinned = [LengthSegment(until=end, length=length) for end, length in ends]
    return section.model_copy(update={"seq_len_warmup": pinned})


def words(lengths: Lengths) -> str:
    """The lengths in words for people."""
    parts = [f"{length:,} until {format_tokens(end)} tokens" for end, length in lengths.ends]
    return f"rows of {', '.join(parts)}, then {lengths.whole:,}"


def _check_length(key: str, length: int, whole: int) -> None:
    if length >= whole or whole % length:
        raise ConfigError(
            f"{key} = {length}: must divide train.seq_len = {whole}, and be less, so that a "
            "sample is cut into equal pieces"
        )

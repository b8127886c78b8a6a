"""Shares of a mixture: from weights that are segments on the token clock to straight lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from manta.config.errors import ConfigError
from manta.config.mixture import MixtureSection
from manta.schedule.shares import ENDLESS, Mixture, positions_alike

SIZES = {"web": 900, "code": 90, "math": 10}
HORIZON, SEQ = 1000, 10


def mixture(**section: Any) -> Mixture:
    return Mixture.resolve(MixtureSection.model_validate(section), SIZES, HORIZON, SEQ)


def weighed(**weights: Any) -> Mixture:
    return mixture(sources={name: {"weight": weight} for name, weight in weights.items()})


def at(found: Mixture, *positions: float) -> dict[str, list[float]]:
    """The shares of each source at some positions."""

    def share(name: str, position: float) -> float:
        stretch = next(s for s in reversed(found.stretches) if s.start <= position)
        return round(float(stretch.share(name, np.array(float(position)))), 6)

    return {name: [share(name, position) for position in positions] for name in found.sources}


def test_weights_are_relative() -> None:
    assert at(weighed(web=90, code=10), 0, 99) == {"web": [0.9, 0.9], "code": [0.1, 0.1]}
    assert weighed(web=9, code=1).stretches == weighed(web=0.9, code=0.1).stretches


def test_sources_are_in_the_order_of_the_corpus_however_they_are_written() -> None:
    assert weighed(math=1, web=9) == weighed(web=9, math=1)


def test_without_weights_shares_are_the_numbers_of_samples() -> None:
    found = mixture(sources={"web": {}, "code": {}, "math": {}})
    assert at(found, 5) == {"web": [0.9], "code": [0.09], "math": [0.01]}


def test_a_temperature_brings_shares_closer_together() -> None:
    """As of multilingual models: to the power of 1/temperature (Conneau et al., 2020)."""
    found = mixture(sources={"web": {}, "math": {}}, temperature=2)
    assert at(found, 0)["web"][0] == pytest.approx(30 / (30 + 10**0.5), abs=1e-6)


def test_a_curriculum_at_its_boundaries() -> None:
    """`web` 90 % up to 70 % of the horizon, from there a straight line to 60 %, and then 60 %."""
    found = weighed(
        web=[{"from": 90, "until": "70%"}, {"shape": "linear", "to": 60}],
        code=[{"from": 10, "until": "70%"}, {"shape": "linear", "to": 40}],
    )
    assert at(found, 0, 69, 70, 85, 100, 150)["web"] == [0.9, 0.9, 0.9, 0.75, 0.6, 0.6]
    assert [stretch.start for stretch in found.stretches] == [0, 70]


def test_a_jump_is_at_the_first_sample_that_begins_at_or_after_it() -> None:
    found = weighed(web=[{"from": 1, "until": 345}, {"from": 3}], code=1)
    assert [stretch.start for stretch in found.stretches] == [0, 35]
    assert at(found, 34, 35)["web"] == [0.5, 0.75]


def test_where_the_sum_of_weights_changes_shares_are_lines_between_bends() -> None:
    found = weighed(web=[{"shape": "linear", "from": 1, "to": 3}], code=1)
    assert at(found, 0, 50, 100)["web"] == [0.5, 0.625, 0.75]
    assert at(found, 50)["code"] == [0.375]


def test_equal_pieces_are_one_stretch() -> None:
    assert weighed(web=[{"from": 9, "until": "30%"}, {"from": 9}], code=1) == weighed(web=9, code=1)


def test_all_weights_of_zero_are_refused_with_the_place() -> None:
    with pytest.raises(ConfigError, match="at 500 tokens all weights are 0"):
        weighed(web=[{"from": 1, "until": "50%"}, {"from": 0}])


def test_a_mistake_in_a_segment_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"data\.mixture\.sources\.web\.weight\.0: give 'tokens'"):
        weighed(web=[{"from": 1}, {"from": 2}])
    with pytest.raises(ConfigError, match=r"weight\.1\.until = 20%: is before the segment's start"):
        weighed(web=[{"from": 1, "until": "50%"}, {"from": 2, "until": "20%"}])


def test_a_past_mixture_keeps_its_own_line() -> None:
    """A line that a fork ends halfway is as steep as it was, by the horizon of that time."""
    line = {"shape": "linear", "from": 90, "to": 10}
    back = {"shape": "linear", "from": 10, "to": 90}
    before = {"sources": {"web": {"weight": [line]}, "code": {"weight": [back]}}}
    old = mixture(**before)
    forked = Mixture.resolve(
        MixtureSection.model_validate(
            {
                "sources": {"web": {"weight": 9}, "code": {"weight": 1}},
                "history": [{"until": 400, "horizon": HORIZON, "mixture": before}],
            }
        ),
        SIZES,
        5 * HORIZON,
        SEQ,
    )
    assert at(forked, 0, 39, 40)["web"] == [*at(old, 0, 39)["web"], 0.9]
    assert positions_alike(old, forked) == 40


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (weighed(web=9, code=1), ENDLESS),
        (weighed(web=8, code=1), 0),
        (weighed(web=[{"from": 9, "until": "70%"}, {"from": 1}], code=1), 70),
        (weighed(web=9, code=1, math=[{"from": 0, "until": "20%"}, {"from": 1}]), 20),
        (None, 0),
    ],
)
def test_how_far_mixtures_are_alike(other: Mixture | None, alike: int) -> None:
    assert positions_alike(weighed(web=9, code=1), other) == alike
    assert positions_alike(other, weighed(web=9, code=1)) == alike
    assert positions_alike(None, None) == ENDLESS

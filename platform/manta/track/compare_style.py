"""What the charts of a comparison have in common: their frame, colours and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manta.track.compare import Configuration
from manta.track.ranking import Ranking
from manta.track.report_figures import BLUE, GREEN, ORANGE, PURPLE

REST = ("#d6336c", "#0c8599", "#a66f00", "#c53030", "#5b8c00", "#3b3f8f")
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, *REST)
OTHERS = "#cfd5df"
# Of a metric: best, middling, worst.
SCALE = ("#123a8c", "#1f9e89", "#e6a817")
LONGEST_NAME = 38

Figure = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A figure and its place on the page.

    `wide` takes the page's whole width. Below `min_width` pixels it is scrolled, not squeezed.
    """

    title: str
    figure: Figure
    note: str = ""
    height: int = 300
    wide: bool = False
    min_width: int = 0


def colour_of(ranking: Ranking, configuration: Configuration, top: int) -> str:
    """The colour of a configuration everywhere on the page; grey beyond the `top` best."""
    number = ranking.order.index(configuration)
    return COLOURS[number % len(COLOURS)] if number < top else OTHERS


def name_of(ranking: Ranking, configuration: Configuration) -> str:
    """Its number in the ranking, and as much of its label as fits a chart."""
    return f"{ranking.order.index(configuration) + 1}  {plain(cut(configuration.label))}"


def cut(text: str, longest: int = LONGEST_NAME) -> str:
    """`text` without what doesn't fit."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def plain(text: str) -> str:
    """`text` without what Plotly would take for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def metric_range(values: Sequence[float], mode: str) -> tuple[float, float]:
    """The values between which colours change: what is far worse than most is just bad."""
    low, high = (float(np.quantile(values, share)) for share in (0.1, 0.9))
    return (min(values), high) if mode == "min" else (low, max(values))


def metric_scale(mode: str) -> list[list[Any]]:
    """The colour scale of a metric, the best always the same end of it."""
    colours = SCALE if mode == "min" else SCALE[::-1]
    return [[share, colour] for share, colour in zip((0, 0.5, 1), colours, strict=True)]


def metric_colour(value: float, low: float, high: float, mode: str) -> str:
    """The colour of `value` on that scale, as Plotly would mix it."""
    share = min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0
    (_, below), (middle, between), (_, above) = metric_scale(mode)
    start, end = (below, between) if share < middle else (between, above)
    part = share / middle if share < middle else (share - middle) / (1 - middle)
    mixed = [
        round(int(start[at : at + 2], 16) * (1 - part) + int(end[at : at + 2], 16) * part)
        for at in (1, 3, 5)
    ]
    return "#" + "".join(f"{level:02x}" for level in mixed)


def width_of(number: int, top: int) -> float:
    """How thick the line of the configuration at a place is: the best stands out."""
    return 2.2 if number == 0 else 1.5 if number < top else 0.8


def rounded(value: float) -> float:
    """Six digits: what a screen can't show need not be in the page."""
    return float(f"{value:.6g}")

"""What the charts of a comparison have in common: their colours and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from manta.record.number_format import significant
from manta.show.compare.comparison import Configuration
from manta.show.compare.ranking import Ranking
from manta.show.pages.charts import COLOURS, PALE

# Colours for the best, a middling and the worst metric; readable on white and on black.
SCALE = ("#2f6fde", "#1f9e89", "#c98a00")
LONGEST_NAME = 38


def colour_of(ranking: Ranking, configuration: Configuration, top: int) -> str:
    """The colour of a configuration everywhere on the page; grey beyond the `top` best."""
    number = ranking.ranked.index(configuration)
    return COLOURS[number % len(COLOURS)] if number < top else PALE


def name_of(ranking: Ranking, configuration: Configuration) -> str:
    """A configuration's rank, and as much of its label as fits a chart."""
    return f"{ranking.ranked.index(configuration) + 1}  {cut(configuration.label)}"


def cut(text: str, longest: int = LONGEST_NAME) -> str:
    """`text` cut to `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def metric_range(values: Sequence[float], mode: str) -> tuple[float, float]:
    """The values that the colour scale spans; outliers on the bad side lie beyond its end."""
    low, high = (float(np.quantile(values, share)) for share in (0.1, 0.9))
    return (min(values), high) if mode == "min" else (low, max(values))


def metric_key(low: float, high: float, mode: str) -> dict[str, Any]:
    """The legend of the colour scale between two values, the best first."""
    best, worst = (low, high) if mode == "min" else (high, low)
    return {"best": f"{best:.4f}", "worst": f"{worst:.4f}", "colors": SCALE}


def metric_colour(value: float, low: float, high: float, mode: str) -> str:
    """The colour of `value` on the scale from `low` to `high`."""
    share = min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0
    below, between, above = SCALE if mode == "min" else SCALE[::-1]
    start, end = (below, between) if share < 0.5 else (between, above)
    part = 2 * share if share < 0.5 else 2 * share - 1
    mixed = [
        round(int(start[at : at + 2], 16) * (1 - part) + int(end[at : at + 2], 16) * part)
        for at in (1, 3, 5)
    ]
    return "#" + "".join(f"{level:02x}" for level in mixed)


def width_of(number: int, top: int) -> float:
    """The line width of a configuration by its rank: the best stands out."""
    return 2.2 if number == 0 else 1.5 if number < top else 0.8


def rounded(value: float) -> float:
    """`value` with six digits: a screen shows no more, and the page stays small."""
    return significant(value, 6)

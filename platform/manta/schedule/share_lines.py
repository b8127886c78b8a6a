"""Data of a mixture's picture: the points of each source's line, and its shares as rows of text."""

from __future__ import annotations

import numpy as np

from manta.config.units import format_tokens
from manta.schedule.lines import Floats
from manta.schedule.shares import Mixture
from manta.schedule.steps import Schedule

TITLE = "Share of the samples (%)"


def share_line(mixture: Mixture, source: str, schedule: Schedule) -> tuple[Floats, Floats]:
    """Token counts and shares in percent of a source's line, which may jump."""
    tokens, shares = [], []
    for begin, end, stretch in mixture.within(schedule.positions):
        bends = [end] if stretch.constant else [min(max(stretch.line[1], begin), end), end]
        places = np.array([float(begin), *map(float, bends)])
        tokens.append(places * schedule.seq_len)
        shares.append(100 * stretch.share(source, places))
    return np.minimum(np.concatenate(tokens), schedule.horizon), np.concatenate(shares)


def share_steps(mixture: Mixture, source: str, positions: int) -> list[str]:
    """The shares of a source, in order, where they change."""
    found: list[str] = []
    for begin, end, stretch in mixture.within(positions):
        for share in 100 * stretch.share(source, np.array([begin, end], dtype=np.float64)):
            if found[-1:] != [f"{share:.3g} %"]:
                found.append(f"{share:.3g} %")
    return found


def mixture_rows(mixture: Mixture, schedule: Schedule) -> list[list[str]]:
    """A row for each source and stretch, with cells below `HEADINGS` of a schedule's segments."""
    rows = []
    for source in mixture.sources:
        for begin, end, stretch in mixture.within(schedule.positions):
            places = np.array([begin, end], dtype=np.float64)
            first, last = (100 * stretch.share(source, places)).tolist()
            span = [min(place * schedule.seq_len, schedule.horizon) for place in (begin, end)]
            flat = f"{first:.3g}" == f"{last:.3g}"
            rows.append(
                [
                    f"share of {source}",
                    *map(format_tokens, span),
                    f"{(span[1] - span[0]) / schedule.horizon:.1%}",
                    "constant" if flat else "linear",
                    f"{first:.3g} %" if flat else f"{first:.3g} % → {last:.3g} %",
                ]
            )
    return rows

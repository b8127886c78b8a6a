"""The page of a comparison of evaluations, with the examples that changed side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import manta
from manta.record.evaluation_record import ExampleRow
from manta.record.metric_text import interval_text, model_name, value_text
from manta.record.run_state import utc_now
from manta.show.evaluations.evaluation_page import short
from manta.show.evaluations.paired_comparison import ComparedEvaluator, PairedComparison
from manta.show.evaluations.paired_lines import HEADINGS, reading, rows_of
from manta.show.pages import page as html
from manta.show.pages.charts import BLUE, GREEN, GREY, ORANGE, Figure, rows

COLOURS = {"better": GREEN, "worse": ORANGE, "differs": BLUE}
MOST_CHANGED = 200


def write_paired_page(comparisons: Sequence[PairedComparison], path: Path) -> Path:
    """Write the page to `path` atomically; returns `path`.

    Raises:
        RunError: if it can't be written.
    """
    parts, drawn = list[str](), list[Figure]()
    for comparison in comparisons:
        names = [model_name(one.model) for one in (comparison.first, comparison.second)]
        parts.append(html.header(f"{names[1]} compared with {names[0]}", "", comparison.remarks))
        for one in comparison.evaluators:
            if one.why:
                parts.append(html.facts(one.name, [("Not compared", one.why)]))
                continue
            body = [row for row, _ in rows_of(one)]
            parts.append(html.table(one.name, [heading.capitalize() for heading in HEADINGS], body))
            if figure := _slices(one):
                drawn.append(figure)
            parts.append(_changed(one, names))
    parts += [html.charts(drawn) if drawn else "", f'<p class="note">{reading(comparisons)}</p>']
    parts.append(html.footer(f"Manta {manta.__version__}, comparison of {utc_now()}"))
    whole = "\n".join(filter(None, parts))
    html.write(path, "Evaluations compared – Manta", whole, drawn, "--output")
    return path


def _slices(one: ComparedEvaluator) -> Figure | None:
    """The differences of slices with their intervals."""
    names, dots, ends = list[str](), list[Figure](), [0.0]
    for ((kind, name), _), difference in one.slices.items():
        if difference.low is None or difference.high is None:
            continue
        half = (difference.high - difference.low) / 2
        middle = difference.low + half
        colour = COLOURS.get(difference.verdict, GREY)
        label = f"{kind} {name}"
        said = interval_text(one.main or "", difference.low, difference.high)
        text = f"{label}: {said}, {difference.verdict}"
        dots.append({"row": len(names), "x": middle, "half": half, "color": colour, "text": text})
        names.append(label)
        ends += [difference.low, difference.high]
    if not names:
        return None
    room = 0.1 * (max(ends) - min(ends)) or 1.0
    axis = {
        "title": f"difference of {one.main}",
        "range": [min(ends) - room, max(ends) + room],
        "format": "number",
    }
    line = {"points": [[0, -0.5], [0, len(names) - 0.5]], "color": GREY, "dash": True}
    height = 60 + 26 * len(names)
    title = f"{one.name}: {one.main} by slice, intervals of the difference"
    return rows(title, names, x=axis, height=height, dots=dots, lines=[line])


def _changed(one: ComparedEvaluator, names: Sequence[str]) -> str:
    """A table of the examples that differ, those that became worse first."""
    main = one.main
    if main is None or not one.changed:
        return ""
    body = []
    for first, second in one.changed[:MOST_CHANGED]:
        cells = [first.id, short(first.shown.get("prompt"))]
        for row in (first, second):
            cells += [_value(row, main), short(row.shown.get("answer"))]
        body.append(cells)
    count = len(one.changed)
    title = f"{one.name}: {count:,} examples whose {main} differs, those that became worse first"
    if count > MOST_CHANGED:
        title += f"; {MOST_CHANGED} of them"
    headings = ["Id", "Prompt", names[0], "Answer", names[1], "Answer"]
    return html.table(title, headings, body)


def _value(row: ExampleRow, metric: str) -> str:
    numerator, denominator = row.sums[metric]
    return value_text(metric, numerator / denominator)

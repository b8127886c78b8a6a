"""What quality costs, in the terminal and on a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import manta
from manta.govern.economics import COSTS, EconomicModel, Economics
from manta.record import number_format as words
from manta.record.metric_text import value_text
from manta.record.run_state import utc_now
from manta.show.pages import page as html
from manta.show.pages.charts import COLOURS, Figure, lines, series

if TYPE_CHECKING:
    from rich.console import Console

HEADINGS = {
    "latency_p95": "p95",
    "peak_memory": "memory",
    "cost_per_1000": "per 1,000",
}
TITLES = {
    "latency_p95": "95th percentile of latency",
    "peak_memory": "peak memory",
    "cost_per_1000": "cost of 1,000 interactions",
    "parameters": "number of weights",
}


def verdict(found: Economics) -> str:
    """The one line that counts."""
    decided = [model for model in found.models if model.passed is not None]
    if found.smallest:
        smallest = next(model for model in found.models if model.name == found.smallest)
        return f"the smallest that passes: {smallest.name}, {words.count(smallest.parameters)}"
    if decided:
        return "none passes its gate"
    return "no gate has decided: ask one with 'manta gate MODEL GATE.yaml'"


def rows_of(found: Economics) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a table of the models."""
    shown = [name for name in COSTS if any(name in model.costs for model in found.models)]
    metric = found.quality.rpartition("/")[2]
    headings = ["model", metric, *(HEADINGS[name] for name in shown), "weights"]
    body = [
        [
            model.name,
            value_text(metric, model.quality),
            *(value_text(name, model.costs.get(name)) for name in shown),
            words.count(model.parameters),
            "front" if model.on_front else "",
            _gate(model),
        ]
        for model in found.models
    ]
    return [*headings, "", "gate"], body


def _gate(model: EconomicModel) -> str:
    return {True: "passed", False: "failed", None: "–"}[model.passed]


def print_economics(found: Economics, console: Console) -> None:
    """Print a table of the models, and the verdict."""
    from rich.table import Table
    from rich.text import Text

    headings, body = rows_of(found)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        right = 0 < number < len(headings) - 2
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for row in body:
        table.add_row(*row)
    console.print(f"quality is {found.quality}, the best first", highlight=False)
    console.print(table)
    for remark in found.remarks:
        console.print(Text(remark, style="dim"))
    console.print(verdict(found), highlight=False)


def write_economics_page(found: Economics, path: Path) -> Path:
    """Write the page to `path` atomically; returns `path`.

    Raises:
        RunError: if it can't be written.
    """
    headings, body = rows_of(found)
    drawn = [
        _points(found, name)
        for name in (*COSTS, "parameters")
        if all(name in _costs(model) for model in found.models)
    ]
    passed = [model for model in found.models if model.passed]
    best = found.models[0]
    metric = found.quality.rpartition("/")[2]
    tiles = [
        ("best quality", value_text(metric, best.quality), best.name),
        ("smallest that passes", found.smallest or "none", f"{len(passed)} pass"),
        ("on the front", str(sum(one.on_front for one in found.models)), "models"),
    ]
    title = f"{found.quality} against what it costs"
    parts = [
        html.header(title, "", [verdict(found), *found.remarks]),
        html.tiles(tiles),
        html.table("Models", [heading.capitalize() for heading in headings], body),
        html.charts(drawn),
        f'<p class="note">{READING}</p>',
        html.footer(f"Manta {manta.__version__}, {utc_now()}"),
    ]
    html.write(path, "Economics – Manta", "\n".join(parts), drawn, "--output")
    return path


READING = (
    "A model is on the Pareto front if no other is as good in quality, latency, memory, cost and "
    "number of weights, and better in one of them. Times are those of one prompt at a time on the "
    "device of the evaluation: a server that batches has other throughput."
)


def _costs(model: EconomicModel) -> dict[str, float]:
    return {**model.costs, "parameters": float(model.parameters)}


def _points(found: Economics, cost: str) -> Figure:
    """A point for each model: quality over one cost."""
    data = [
        series(
            f"{model.name}{' (front)' if model.on_front else ''}",
            [_costs(model)[cost]],
            [model.quality],
            COLOURS[number % len(COLOURS)],
            dots=True,
        )
        for number, model in enumerate(found.models)
    ]
    most = max(_costs(model)[cost] for model in found.models)
    title = TITLES[cost]
    axis = {"title": f"{title}{_unit(cost)}", "format": "number", "range": [0, 1.1 * most]}
    return lines(
        f"{found.quality} over {title}", data, x=axis, y={"format": "number"}, closest=True
    )


def _unit(cost: str) -> str:
    return {"latency_p95": ", s", "peak_memory": ", bytes"}.get(cost, "")

"""The page of a report: HTML and CSS around charts and tables. Everything is escaped here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STATUS_COLORS = {
    "finished": "#188a5b",
    "stopped": "#2f6fde",
    "running": "#b7791f",
    "failed": "#c53030",
    "interrupted": "#5b6475",
}

CSS = """
:root { --ink: #1d2433; --soft: #5b6475; --line: #e3e7ee; --ground: #f5f7fa; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 Inter, system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial,
  sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 48px; }
header { display: flex; align-items: baseline; gap: 14px; flex-wrap: wrap; }
h1 { font-size: 28px; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 6px; font-weight: 600; }
.badge { color: #fff; border-radius: 999px; padding: 2px 12px; font-size: 13px;
  font-weight: 600; }
.sub { color: var(--soft); margin: 4px 0 22px; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; }
.tile, .card { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 16px; flex: 1 1 22%; min-width: 150px; }
.tile .name { color: var(--soft); font-size: 12.5px; }
.tile .value { font-size: 21px; font-weight: 600; letter-spacing: -0.01em;
  font-variant-numeric: tabular-nums; }
.tile .more { color: var(--soft); font-size: 12.5px; }
.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px;
  margin-top: 14px; }
.card { padding: 16px 18px 10px; margin-top: 14px; overflow: hidden; }
.grid .card { margin-top: 0; }
.grid .card:last-child:nth-child(odd) { grid-column: span 2; }
.chart { height: 250px; }
.chart.tall { height: 400px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
.wide { overflow-x: auto; }
td, th { text-align: left; padding: 6px 14px 6px 0; border-top: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
tr:first-child td, tr:first-child th { border-top: 0; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
.facts th { width: 1%; padding-right: 28px; }
code, pre { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { overflow-x: auto; margin: 8px 0; }
summary { cursor: pointer; font-weight: 600; }
footer { color: var(--soft); font-size: 12.5px; margin-top: 22px; }
@media (max-width: 760px) { .grid { grid-template-columns: minmax(0, 1fr); }
  .grid .card:last-child:nth-child(odd) { grid-column: auto; } }
@media print { body { background: #fff; } .card, .tile { break-inside: avoid; } }
"""

SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
figures.forEach((figure, index) => Plotly.newPlot(
  "chart-" + index, figure.data, figure.layout,
  {responsive: true, displaylogo: false, displayModeBar: false}));
"""


def page(title: str, body: str, figures: Sequence[Any], plotly_js: str, more_css: str = "") -> str:
    """The whole document; `plotly_js` is put in once."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{CSS}{more_css}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="figures">{_json(figures)}</script>
<script>{plotly_js}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def header(name: str, status: str, lines: Iterable[str]) -> str:
    """The run's name and status, and what must be said at once."""
    color = STATUS_COLORS.get(status, STATUS_COLORS["interrupted"])
    below = "<br>".join(escape(line) for line in lines)
    return (
        f'<header><h1>{escape(name)}</h1><span class="badge" style="background:{color}">'
        f'{escape(status)}</span></header>\n<p class="sub">{below}</p>'
    )


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Figures to see from afar: name, value, and a word more."""
    drawn = "\n".join(
        f'<div class="tile"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="more">{escape(more)}</div></div>'
        for name, value, more in items
    )
    return f'<div class="tiles">\n{drawn}\n</div>'


def charts(titles: Sequence[str]) -> str:
    """A place for each chart: the first one wide, the others in two columns."""
    places = [
        f'<div class="card"><h2>{escape(title)}</h2>'
        f'<div id="chart-{index}" class="chart{"" if index else " tall"}"></div></div>'
        for index, title in enumerate(titles)
    ]
    return f'{places[0]}\n<div class="grid">\n{"".join(places[1:])}\n</div>'


def facts(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A card with names and values."""
    drawn = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows
    )
    return f'<div class="card"><h2>{escape(title)}</h2><table class="facts">{drawn}</table></div>'


def table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A card with a table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    drawn = "\n".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="card"><h2>{escape(title)}</h2><div class="wide"><table>'
        f"<tr>{head}</tr>\n{drawn}</table></div></div>"
    )


def folded(title: str, text: str) -> str:
    """A card that opens on a click."""
    return (
        f'<div class="card"><details><summary>{escape(title)}</summary>'
        f"<pre>{escape(text)}</pre></details></div>"
    )


def footer(text: str) -> str:
    """The last line."""
    return f"<footer>{escape(text)}</footer>"


def _json(value: Any) -> str:
    """JSON that can't end the script element that it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")

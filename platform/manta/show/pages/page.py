"""Builds a page from figures and tables, in one style. All escaping of HTML happens here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from math import ceil
from pathlib import Path
from typing import Any

from manta.config.errors import RunError
from manta.show.pages.charts import Figure
from manta.storage.atomic import replace_text

HERE = Path(__file__).parent
LONG_CELL = 40
MOST_COLUMNS = 6
# Entries of a figure that the page uses itself and doesn't pass to the drawing script.
SAID = ("note", "whole", "min_width")


def page(title: str, body: str, figures: Sequence[Figure], refresh: int | None = None) -> str:
    """The whole HTML document; it needs neither other files nor a network.

    With `refresh` a browser that shows it loads it again after so many seconds.
    """
    again = f'\n<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    style, script = ((HERE / name).read_text("utf-8") for name in ("page.css", "charts.js"))
    drawn = [{key: figure[key] for key in figure if key not in SAID} for figure in figures]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{again}
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="figures">{_json(drawn)}</script>
<script>{script}</script>
</body>
</html>
"""


def write(
    path: Path,
    title: str,
    body: str,
    figures: Sequence[Figure],
    option: str,
    refresh: int | None = None,
) -> None:
    """Write a page atomically, with its folder; `option` is that of the command that names it.

    For `refresh`, see `page`.

    Raises:
        RunError: if the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, page(title, body, figures, refresh))
    except OSError as error:
        raise RunError(
            f"{path}: can't be written: {error.strerror}; give another file with {option}"
        ) from None


def header(name: str, status: str, lines: Iterable[str]) -> str:
    """The page's header: a name, its status if known, and the most important lines."""
    below = "<br>".join(escape(line) for line in lines)
    badge = f'<span class="badge {escape(status)}">{escape(status)}</span>' if status else ""
    return f'<header><h1>{escape(name)}</h1>{badge}</header>\n<p class="sub">{below}</p>'


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Large tiles: each a name, a value, and a remark."""
    items = list(items)
    columns = ceil(len(items) / ceil(len(items) / MOST_COLUMNS)) if items else 1
    drawn = "\n".join(
        f'<div class="tile"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="more">{escape(more)}</div></div>'
        for name, value, more in items
    )
    return f'<div class="tiles" style="--columns:{columns}">\n{drawn}\n</div>'


def charts(figures: Sequence[Figure]) -> str:
    """A card for each figure, with the element that the page's script draws into.

    A figure may also have a `note` below its title, be as wide as the page
    (`whole`), and have a `min_width` in pixels, below which it scrolls instead of shrinking.
    """
    cards, alone = [], _alone(figures)
    for number, figure in enumerate(figures):
        note = f'<p class="note">{escape(figure["note"])}</p>' if figure.get("note") else ""
        narrow = f' style="min-width:{figure["min_width"]}px"' if figure.get("min_width") else ""
        cards.append(
            f'<div class="card{" whole" if figure.get("whole") or number in alone else ""}">'
            f"<h2>{escape(figure['title'])}</h2>{note}"
            f'<div class="scrolled"><div id="chart-{number}"{narrow}></div></div></div>'
        )
    without = '<noscript><p class="note">The charts need JavaScript.</p></noscript>'
    return f'{without}<div class="grid">\n{"".join(cards)}\n</div>'


def _alone(figures: Sequence[Figure]) -> set[int]:
    """The indices of narrow figures that would have nothing beside them."""
    found, row = set(), 0
    for number, figure in enumerate([*figures, {"whole": True}]):
        if figure.get("whole"):
            found |= {number - 1} if row % 2 else set()
            row = 0
        else:
            row += 1
    return found


def facts(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A card with names and values."""
    drawn = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows
    )
    return f'<div class="card"><h2>{escape(title)}</h2><table class="facts">{drawn}</table></div>'


def table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A card with a table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    drawn = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<div class="card"><h2>{escape(title)}</h2><div class="wide"><table>'
        f"<tr>{head}</tr>\n{drawn}</table></div></div>"
    )


def _cell(text: str) -> str:
    return f"<td{' class=long' if len(text) > LONG_CELL else ''}>{escape(text)}</td>"


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
    """`value` as JSON that can't end the script element around it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")

"""The page of a comparison: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import manta
from manta.record import number_format as words
from manta.record.curve import SMOOTHED
from manta.record.run_state import utc_now
from manta.show.compare.chart_style import colour_of
from manta.show.compare.comparison import ComparedRun, Comparison, Configuration, short_keys
from manta.show.compare.comparison_charts import charts
from manta.show.compare.comparison_stats import short
from manta.show.compare.comparison_table import STATUS, Column, columns
from manta.show.compare.ranking import Ranking
from manta.show.compare.stage_tree import tree
from manta.show.compare.verdict import (
    Sentence,
    device_time,
    sentences,
    total_cost,
    total_device_seconds,
    view_name,
)
from manta.show.pages import page as html

LONG_PARAM = 22
CHIPS = {"clear": "clear", "noise": "within noise", "unknown": "noise unknown"}
READING = (
    "A configuration is a set of trials that differ only in the seed; configurations are ordered "
    "by their mean over seeds. ± is half of a 95 % t-interval. It uses the configuration's own "
    "spread if it has three or more seeds, else the pooled spread of all configurations. ≈ marks "
    "configurations that can't be told from the best: the interval of the difference contains "
    "zero. The best of many looks better than it is, because it was selected by its result: before "
    "you rely on a small lead, train it again with new seeds. Compute is the device time of "
    "training steps over the whole history, as if the trial had been trained alone. Device time "
    "used and its cost come from the run's own record: they include starts, evaluations and "
    "repeated work, and leave out what another trial trained. Values in parentheses are the last "
    "ones of configurations that can't be compared."
)


def write_page(
    comparison: Comparison,
    ranking: Ranking,
    path: Path,
    top: int = 10,
    refresh: int | None = None,
) -> Path:
    """Write the page to `path` atomically; returns `path`.

    Args:
        comparison: the runs or trials that are compared.
        ranking: their order, from `rank`.
        path: the file to write.
        top: number of best configurations that get a colour and are not folded away.
        refresh: seconds after which a browser that shows the page loads it again; None for never.

    Raises:
        RunError: if the file can't be written.
    """
    drawn = charts(comparison, ranking, top)
    if below := tree(comparison, ranking):
        drawn.append(below)
    parts = [
        _header(comparison),
        _warnings(comparison.warnings),
        _answer(sentences(comparison, ranking)),
        html.tiles(_tiles(comparison, ranking)),
        _standings(comparison, ranking, top),
        html.charts(drawn),
        _trials(comparison, ranking),
        html.folded("Config shared by all", comparison.shared) if comparison.shared else "",
        _reading(comparison),
        html.footer(f"Manta {manta.__version__}, comparison of {utc_now()}"),
    ]
    html.write(path, f"{comparison.title} – Manta", "\n".join(parts), drawn, "--output", refresh)
    return path


def _reading(comparison: Comparison) -> str:
    text = READING
    if comparison.metric == "loss":
        text += f" The loss is the mean over the last {SMOOTHED:.0%} of a run's tokens."
    return f'<div class="card"><h2>How to read this</h2><p class="note">{escape(text)}</p></div>'


def _header(comparison: Comparison) -> str:
    asked = comparison.question or "Which is best, by how much, and how sure is that?"
    return html.header(comparison.title, comparison.status, asked.splitlines())


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    lines = "".join(f"<div>{escape(warning)}</div>" for warning in warnings)
    return f'<div class="card warning"><h2>Warnings</h2>{lines}</div>'


def _answer(found: Sequence[Sentence]) -> str:
    best, *rest = found
    items = "".join(
        f'<li class="{sentence.sureness}">'
        + (f'<span class="chip">{chip}</span>' if (chip := CHIPS.get(sentence.sureness)) else "")
        + f"{escape(sentence.text)}</li>"
        for sentence in rest
    )
    plain = "" if any(sentence.sureness in CHIPS for sentence in rest) else " plain"
    text = f'<p class="best">{escape(best.text)}</p><ul>{items}</ul>'
    return f'<div class="card answer{plain}">{text}</div>'


def _tiles(comparison: Comparison, ranking: Ranking) -> list[tuple[str, str, str]]:
    found = []
    if ranking.main:
        best = ranking.main.entries[0].estimate
        sure = "noise unknown" if best.half is None else f"± {best.half:.4f}"
        where = view_name(ranking.main)
        found.append((f"Best {comparison.metric}", words.loss(best.mean), f"{sure}, {where}"))
        if len(ranking.main.entries) > 1 and (behind := ranking.main.entries[1].behind):
            within = {True: "within seed noise", False: "more than seed noise"}
            told = "seed noise unknown" if behind.half is None else f"± {behind.half:.4f}, "
            told += within.get(behind.within_noise, "") if behind.within_noise is not None else ""
            found.append(("Lead over the second", f"{behind.gap:.4f}", told))
    seeds = {trial.seed for trial in comparison.trials}
    noun = ("trial" if comparison.tokens else "run") + "s" * (len(comparison.trials) != 1)
    found.append(
        (
            "Configurations",
            f"{len(comparison.configurations):,}",
            f"{len(comparison.trials):,} {noun}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}",
        )
    )
    found.append(_tokens_tile(comparison))
    seconds, cost = total_device_seconds(comparison), total_cost(comparison)
    if seconds is not None:
        value, unit = device_time(seconds).split(" ")
        found.append(("Device time used", value, f"{unit}, all {noun} together"))
    if cost is not None:
        found.append(("Cost", words.money(cost), f"all {noun} together"))
    return found


def _tokens_tile(comparison: Comparison) -> tuple[str, str, str]:
    noun = "trials" if comparison.tokens else "runs"
    more = f"all {noun} together"
    if comparison.saved > 1:
        apart = words.count(comparison.apart_tokens)
        more = f"without sharing {apart}, {comparison.saved:.2f} times as many"
    return "Tokens trained", words.count(comparison.trained_tokens), more


def _standings(comparison: Comparison, ranking: Ranking, top: int) -> str:
    """The table, best first; rows after the `top` best are folded away."""
    rest = ranking.ranked[top:]
    shown = [
        column for column in columns(comparison, ranking) if any(map(column.cell, ranking.ranked))
    ]
    first = _rows(comparison, ranking, ranking.ranked[:top], shown, top)
    folded = ""
    if rest:
        rows = _rows(comparison, ranking, rest, shown, top)
        folded = (
            f"<details><summary>{len(rest)} more</summary>"
            f'<div class="wide"><table class="standings">{rows}</table></div></details>'
        )
    return (
        '<div class="card"><h2>Ranking</h2><div class="wide">'
        f'<table class="standings">{first}</table></div>{folded}</div>'
    )


def _rows(
    comparison: Comparison,
    ranking: Ranking,
    order: Sequence[Configuration],
    shown: Sequence[Column],
    top: int,
) -> str:
    names = short_keys(comparison.keys)
    labelled = not comparison.keys or comparison.tokens is None
    heads = ["", *(["run"] if labelled else []), *(names[key] for key in comparison.keys)]
    rows = ["".join(f"<th>{escape(head)}</th>" for head in heads) + _heads(shown)]
    for configuration in order:
        number = ranking.ranked.index(configuration)
        compared = ranking.entry(ranking.main, configuration) is not None
        colour = colour_of(ranking, configuration, top)
        cells = [f'<td><span class="swatch" style="background:{colour}"></span>{number + 1}</td>']
        if labelled:
            runs = ", ".join(trial.label for trial in configuration.trials)
            cells.append(_param(runs))
        cells += [_param(short(configuration.params.get(key))) for key in comparison.keys]
        cells += [_cell(column, configuration) for column in shown]
        kind = "out" if not compared else "first" if number == 0 else ""
        rows.append(f'<tr class="{kind}">{"".join(cells)}</tr>')
    return f"<tr>{rows[0]}</tr>\n" + "\n".join(rows[1:])


def _param(text: str) -> str:
    """A parameter's value: a short one on one line, a long one wrapped."""
    return f'<td class="{"long" if len(text) > LONG_PARAM else "param"}">{escape(text)}</td>'


def _heads(shown: Sequence[Column]) -> str:
    kinds = {column.name: "" if column.name == STATUS else "n" for column in shown}
    return "".join(f'<th class="{kind}">{escape(name)}</th>' for name, kind in kinds.items())


def _cell(column: Column, configuration: Configuration) -> str:
    text = escape(column.cell(configuration))
    if column.name == STATUS:
        kind = text if text.isalpha() else ""
        badge = f'<span class="status {kind}">{text}</span>' if text else ""
        return f'<td class="state">{badge}</td>'
    return f'<td class="n">{text}</td>'


def _trials(comparison: Comparison, ranking: Ranking) -> str:
    """A folded table with a row for each trial."""
    heads = ["", "seed", comparison.metric, "tokens", "its own", "shared", "compute"]
    heads += ["device time used", "goodput", "cost", "status"]
    rows = []
    for configuration in ranking.ranked:
        for trial in configuration.trials:
            cells = _trial_cells(trial)
            rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    drawn = "\n".join(f"<tr>{row}</tr>" for row in [head, *rows])
    title = f"All {len(rows)}, one by one" if len(rows) > 1 else "Details"
    return (
        f'<div class="card"><details><summary>{title}</summary>'
        f'<div class="wide"><table class="standings">{drawn}</table></div></details></div>'
    )


def _trial_cells(trial: ComparedRun) -> list[str]:
    return [
        trial.label if trial.label == trial.name else f"{trial.label} ({trial.name})",
        str(trial.seed),
        words.loss(trial.value),
        words.count(trial.reached),
        words.count(trial.own_tokens),
        words.count(trial.shared_tokens),
        "" if trial.compute is None else words.duration(trial.compute),
        "" if trial.device_seconds is None else words.duration(trial.device_seconds),
        "" if trial.goodput is None else f"{trial.goodput:.0%}",
        "" if trial.cost is None else words.money(trial.cost),
        f"{trial.status}: {trial.reason}" if trial.reason else trial.status,
    ]

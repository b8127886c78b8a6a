"""A look at drift as lines in the terminal, and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manta.govern.drift_report import DriftMeasure, DriftReport, DriftSlice
from manta.record import number_format as words
from manta.show.pages import page as html
from manta.show.pages.charts import BLUE, ORANGE, Figure, rows

if TYPE_CHECKING:
    from rich.console import Console

MEANINGS = {
    "lengths_psi": "lengths of documents: population stability index",
    "lengths_ks": "lengths of documents: Kolmogorov-Smirnov distance",
    "tokens_psi": "tokens: population stability index",
    "sources_psi": "sources: population stability index",
    "loss_rise": "loss under the model: rise, nats a token",
    "loss_ks": "losses of documents: Kolmogorov-Smirnov distance",
    "embedding_mmd": "mean hidden states: squared maximum mean discrepancy",
}
STYLES = {"drift": "red", "within noise": "yellow"}
COLUMNS = ("", "Reference", "New", "Share", "New share", "Loss", "New loss")


def print_drift(report: DriftReport, console: Console) -> None:
    """Print the measures, and the verdict."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("measure", no_wrap=True)
    for heading in ("value", "threshold", "chance"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for measure in report.measures:
        *cells, verdict = _cells(measure)
        table.add_row(measure.name, *cells, Text(verdict, style=STYLES.get(verdict, "")))
    console.print(table)
    for remark in report.remarks:
        console.print(Text(remark, style="dim"))


def verdict(report: DriftReport) -> str:
    """The one line that counts."""
    drifted = [one.name for one in report.measures if one.verdict == "drift"]
    counts = f"{report.documents[1]:,} new documents, {report.documents[0]:,} of the reference"
    return f"{'drift: ' + ', '.join(drifted) if drifted else 'no drift'} ({counts})"


def _cells(measure: DriftMeasure) -> list[str]:
    threshold = "–" if measure.threshold is None else f"{measure.threshold:g}"
    return [f"{measure.value:.4f}", threshold, f"{measure.chance:.3f}", measure.verdict]


def write_drift_page(report: DriftReport, path: Path) -> Path:
    """Write the page to `path` atomically; returns `path`.

    Raises:
        RunError: if it can't be written.
    """
    said = [
        f"{report.new} against {report.against}",
        *([f"Model: {report.model}"] if report.model else []),
        *report.remarks,
    ]
    measures = [[one.name, *_cells(one), MEANINGS[one.name]] for one in report.measures]
    kinds = {kind: [s for s in report.slices if s.kind == kind] for kind in ("length", "source")}
    drawn = [_shares(kind, slices) for kind, slices in kinds.items() if len(slices) > 1]
    shifts = [
        [repr(one.token), f"{100 * one.reference:.3f} %", f"{100 * one.new:.3f} %"]
        for one in report.tokens
    ]
    headings = ["Measure", "Value", "Threshold", "Chance", "Verdict", "Meaning"]
    parts = [
        html.header(verdict(report), "", said),
        html.table("Measures", headings, measures),
        html.charts(drawn),
        *(_table(kind, slices) for kind, slices in kinds.items()),
        html.table("Tokens whose share changed most", ["Token", "Share", "New share"], shifts),
        f'<p class="note">{READING}</p>',
        html.footer(f"Manta {report.manta_version}, {report.created}"),
    ]
    html.write(path, "Drift – Manta", "\n".join(parts), drawn, "--output")
    return path


READING = (
    "A measure has drifted if it is above its threshold and beyond noise: chance is the share of "
    "random deals of the documents to both sides whose value is as large, and all measures "
    "together are wrong with at most 5 % if nothing has drifted (Bonferroni)."
)


def _shares(kind: str, slices: list[DriftSlice]) -> Figure:
    """The shares of slices on both sides, bar under bar."""
    bars = []
    for row, one in enumerate(slices):
        for offset, share, colour, side in (
            (0, one.reference_share, BLUE, "reference"),
            (1, one.new_share, ORANGE, "new"),
        ):
            text = f"{one.name}, {side}: {100 * share:.1f} %"
            bar = {"row": 2 * row + offset, "from": 0, "to": share, "color": colour, "text": text}
            bars.append({**bar, "label": f"{100 * share:.1f} %"})
    names = [name for one in slices for name in (one.name, "new")]
    most = max(max(one.reference_share, one.new_share) for one in slices)
    axis = {"title": "share of documents", "range": [0, 1.15 * most], "format": "percent"}
    height = 60 + 20 * len(names)
    return rows(f"Documents by {kind}", names, x=axis, height=height, bars=bars)


def _table(kind: str, slices: list[DriftSlice]) -> str:
    body = [
        [
            one.name,
            f"{one.reference:,}",
            f"{one.new:,}",
            f"{100 * one.reference_share:.1f} %",
            f"{100 * one.new_share:.1f} %",
            words.loss(one.reference_loss),
            words.loss(one.new_loss),
        ]
        for one in slices
    ]
    label = {"length": "length in tokens"}.get(kind, kind)
    return html.table(f"By {label}", COLUMNS, body)

"""The page of an evaluation: one self-contained file, made from the result's files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.config.errors import RunError
from manta.record import number_format as words
from manta.record.evaluation_record import (
    EvaluationRecord,
    EvaluatorResult,
    ExampleRow,
    read_evaluation,
    read_examples,
)
from manta.record.metric_text import first_values, model_name, value_text
from manta.show.evaluations.evaluation_lines import meanings
from manta.show.pages import page as html
from manta.show.pages.charts import BLUE, GREY, ORANGE, Figure, lines, rows, series
from manta.storage.place import Place, put
from manta.storage.run_folder import EVALUATION_PAGE

MOST_TILES, MOST_EXAMPLES, LONGEST = 8, 200, 300
LABELS = {"length": "length of the document, tokens", "context": "tokens of context"}


def write_evaluation_page(folder: Place) -> Place:
    """Write ``evaluation.html`` into the folder of an evaluation; returns its path.

    Raises:
        RunError: if there is no evaluation, or the page can't be written.
    """
    record = read_evaluation(folder)
    examples = read_examples(folder, record)
    drawn = [figure for name in record.evaluators for figure in _figures(name, record)]
    parts = [
        html.header(f"{record.name}: {model_name(record.model)}", "", _header(record)),
        html.tiles(_tiles(record)),
        *(_table(name, result) for name, result in record.evaluators.items()),
        html.charts(drawn) if drawn else "",
        *(_slices(name, result) for name, result in record.evaluators.items()),
        *(_examples(name, examples) for name in record.evaluators),
        html.facts("Origin", _origin(record)),
        html.footer(f"Manta {record.manta_version}, evaluation of {record.created}"),
    ]
    text = html.page(f"{record.name} – Manta", "\n".join(filter(None, parts)), drawn)
    try:
        put(folder / EVALUATION_PAGE, text.encode())
    except OSError as error:
        raise RunError(f"{folder / EVALUATION_PAGE}: can't be written: {error}") from None
    return folder / EVALUATION_PAGE


def _header(record: EvaluationRecord) -> list[str]:
    found = [f"{record.created[:16].replace('T', ' ')} UTC · {record.device}"]
    if record.final:
        before = record.test_split_before
        found.append(
            "A test split was read: the first look at it."
            if not before
            else f"A test split was read, which had been read {before} times for this model: its "
            "result is too good by what was chosen since."
        )
    return found


def _tiles(record: EvaluationRecord) -> list[tuple[str, str, str]]:
    return [
        (metric.replace("_", " "), value_text(metric, value), name)
        for name, metric, value in first_values(record)
    ][:MOST_TILES]


def _table(name: str, result: EvaluatorResult) -> str:
    known = dict(meanings(list(result.values)))
    title = f"{name}: {result.data}, {result.examples:,} examples"
    found = [[m, value_text(m, v), known.get(m, "")] for m, v in result.values.items()]
    found += [["", "", remark] for remark in result.remarks]
    return html.table(title, ["Metric", "Value", "Meaning"], found)


def _slices(name: str, result: EvaluatorResult) -> str:
    found = []
    for kind, slices in result.slices.items():
        if len(slices) > 1:
            metrics = list(dict.fromkeys(metric for one in slices.values() for metric in one))
            body = [
                [one, f"{result.sizes[kind][one]:,}"]
                + [value_text(metric, values.get(metric)) for metric in metrics]
                for one, values in slices.items()
            ]
            label = LABELS.get(kind, kind)
            found.append(html.table(f"{name} by {label}", ["", "Examples", *metrics], body))
    return "\n".join(found)


def _figures(name: str, record: EvaluationRecord) -> list[Figure]:
    result, found = record.evaluators[name], list[Figure]()
    for kind in ("context", "length"):
        values = {k: v["loss"] for k, v in result.slices.get(kind, {}).items() if "loss" in v}
        if len(values) > 1:
            found.append(_bars(f"{name}: loss by {LABELS[kind]}", values))
    if points := result.curves.get("reliability"):
        found.append(_reliability(f"{name}: reliability", points))
    if points := result.curves.get("risk"):
        x, y = ([round(point[axis], 6) for point in points] for axis in (0, 1))
        line = series("error of those answered", x, y, BLUE, width=2.0)
        axis = {"title": "share that is answered, the surest first", "format": "percent"}
        figure = lines(
            f"{name}: risk and coverage", [line], x=axis, y={"zero": True, "format": "percent"}
        )
        found.append(figure)
    return found


def _bars(title: str, values: dict[str, float]) -> Figure:
    most = max(values.values())
    bars = [
        {
            "row": row,
            "from": 0,
            "to": value,
            "color": BLUE,
            "label": f"{value:.3f}",
            "text": f"{name}: {value:.4f} nats a token",
        }
        for row, (name, value) in enumerate(values.items())
    ]
    axis = {"title": "nats a token", "range": [0, 1.15 * most], "format": "number"}
    return rows(title, list(values), x=axis, height=60 + 26 * len(values), bars=bars)


def _reliability(title: str, points: Sequence[Sequence[float]]) -> Figure:
    x, y = ([round(point[axis], 6) for point in points] for axis in (0, 1))
    ideal = series("as sure as right", [0, 1], [0, 1], GREY, width=1.0, dash=True)
    own = series("share that is right", x, y, ORANGE, width=2.0, dots=True)
    axis = {"title": "confidence, mean of the bin", "format": "percent", "range": [0, 1]}
    return lines(title, [ideal, own], x=axis, y={"zero": True, "format": "percent"})


def _examples(name: str, examples: Sequence[ExampleRow]) -> str:
    """Prompt, answer and what failed, of the examples that have an answer; failures first."""
    shown = [row for row in examples if row.evaluator == name and "answer" in row.shown]
    if not shown:
        return ""
    shown.sort(key=lambda row: passed(row) is not False)
    body = [
        [
            row.id,
            passed_text(row),
            *(short(row.shown.get(key)) for key in ("prompt", "answer")),
            short(_why(row.shown)),
        ]
        for row in shown[:MOST_EXAMPLES]
    ]
    title = f"{name}: examples" + (
        f", {MOST_EXAMPLES} of {len(shown):,}" * (len(shown) > len(body))
    )
    return html.table(title, ["Id", "", "Prompt", "Answer", "What is wrong"], body)


def passed(row: ExampleRow) -> bool | None:
    """Whether an example passed; None if nothing says so."""
    for metric in ("success", "accuracy"):
        if metric in row.sums:
            return row.sums[metric][0] == row.sums[metric][1]
    return None


def passed_text(row: ExampleRow) -> str:
    """A word for it."""
    return {True: "passed", False: "failed", None: ""}[passed(row)]


def _why(shown: dict[str, Any]) -> str:
    said = [f"{check}: {why}" if why else check for check, why in shown.get("failed", {}).items()]
    said += [f"unsupported: {claim}" for claim in shown.get("unsupported", [])]
    said += [f"policy: {pattern}" for pattern in shown.get("policy", [])]
    if "right" in shown and shown["right"] != shown["answer"]:
        said.append(f"right is {shown['right']}")
    return "; ".join(said)


def short(value: Any) -> str:
    """A text, or a conversation's last message, cut to what a cell holds."""
    if isinstance(value, list) and value:
        value = value[-1].get("content", "")
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _origin(record: EvaluationRecord) -> list[tuple[str, str]]:
    model = record.model
    found = [
        ("Model", model.place + ("" if model.step is None else f", step {model.step:,}")),
        ("Weights", f"{model.parameters:,}, SHA-256 {model.fingerprint}"),
        ("Precision", "float32" if record.precision == "no" else record.precision),
        ("Took", words.duration(record.seconds)),
        *((f"Data of {name}", one.data_hash) for name, one in record.evaluators.items()),
        ("Packages", ", ".join(f"{k} {v}" for k, v in record.packages.items())),
    ]
    if record.git:
        changed = " with uncommitted changes" if record.git["dirty"] else ""
        found.append(("Code", f"{record.git['commit']}{changed}"))
    return found

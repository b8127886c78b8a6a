"""Values of evaluations as people read them."""

from __future__ import annotations

from manta.config.metrics import EVALUATED
from manta.record import number_format as words
from manta.record.evaluation_record import EvaluatedFacts, EvaluationRecord
from manta.storage.run_folder import VERSIONS

SHARE, SECONDS = "share of 1", "s"
POINTS = " pp"  # percentage points
# From here on a plain number has no digits after the point.
LARGE = 1000
# Metrics that are shown first: how well a model answers, at what cost, how well it predicts.
FIRST = (
    "success",
    "hallucination_rate",
    "latency_p95",
    "cost_per_1000",
    "loss",
    "bits_per_byte",
    "accuracy",
    "ece",
)


def value_text(metric: str, value: float | None) -> str:
    """A value with its unit, such as ``93.2 %``; a dash for none."""
    if value is None:
        return "–"
    unit = unit_of(metric)
    if unit == SHARE:
        return f"{100 * value:.1f} %"
    if unit == SECONDS:
        return f"{1000 * value:,.1f} ms" if value < 1 else f"{value:,.2f} s"
    if unit == "bytes":
        return words.memory(value)
    if unit == "tokens/s":
        return f"{value:,.1f}/s"
    return f"{value:,.0f}" if abs(value) >= LARGE else f"{value:.4g}"


def change_text(metric: str, change: float) -> str:
    """A difference of two values, with its sign."""
    sign = "+" if change >= 0 else "−"
    if unit_of(metric) == SHARE:
        return f"{sign}{100 * abs(change):.2f}{POINTS}"
    return f"{sign}{value_text(metric, abs(change))}"


def interval_text(metric: str, low: float | None, high: float | None) -> str:
    """An interval of a difference of two values; a dash for none."""
    if low is None or high is None:
        return "–"
    first, last = (change_text(metric, end) for end in (low, high))
    return f"{first.removesuffix(POINTS)} to {last}"


def unit_of(metric: str) -> str:
    """The unit of a metric; "" for a metric of the user's own."""
    return EVALUATED[metric].unit if metric in EVALUATED else ""


def meaning_of(metric: str) -> str:
    """The quantity that a metric measures; "" for a metric of the user's own."""
    return EVALUATED[metric].meaning if metric in EVALUATED else ""


def model_name(facts: EvaluatedFacts) -> str:
    """A model for people: its run and step, name and version in a registry, or its folder."""
    if facts.run:
        return facts.run if facts.step is None else f"{facts.run}@{facts.step}"
    parts = facts.place.rstrip("/").split("/")
    if parts[-3::2] == [VERSIONS, "model"]:  # NAME/versions/NUMBER/model
        return f"{parts[-4]}@{parts[-2]}"
    return parts[-1] or facts.place


def first_values(record: EvaluationRecord) -> list[tuple[str, str, float]]:
    """Evaluator, metric and value of what is shown first."""
    return [
        (name, metric, result.values[metric])
        for metric in FIRST
        for name, result in record.evaluators.items()
        if metric in result.values
    ]

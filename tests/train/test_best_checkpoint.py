"""Which checkpoint is the best: any metric with a direction, and bounds that come first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from written_configs import RUN

from manta.config import ConfigError, RunConfig, load
from manta.config.best import BestSection
from manta.train.best_checkpoint import Score, improves, score_of, since_best

SUCCESS, MADE_UP = "answers/success", "answers/hallucination_rate"
VALUES = st.floats(0, 1)


def best(**keys: Any) -> BestSection:
    return BestSection.model_validate({"metric": SUCCESS, **keys})


def test_bounds_come_before_the_metric() -> None:
    section = best(require={MADE_UP: {"at_most": 0.1}})
    safe = score_of(section, {SUCCESS: 0.5, MADE_UP: 0.1})
    bold = score_of(section, {SUCCESS: 0.9, MADE_UP: 0.2})
    unknown = score_of(section, {SUCCESS: 0.9})
    assert safe is not None
    assert bold is not None
    assert safe > bold
    assert unknown == bold, "what was not measured holds no bound"
    assert score_of(section, {MADE_UP: 0.0}) is None
    assert improves(safe, bold, least=0.0)
    assert not improves(bold, safe, least=0.0)


@given(st.lists(VALUES, min_size=1, max_size=20), st.floats(0, 0.5))
def test_a_smaller_loss_is_better_as_a_greater_success_is(
    values: list[float], least: float
) -> None:
    """The number of evaluations without an improvement, as a plain loop has it."""
    low, since = float("inf"), 0
    for value in values:
        low, since = (value, 0) if value < low - least else (low, since + 1)
    lower: list[Score | None] = [
        score_of(BestSection(metric="held_out/loss"), {"held_out/loss": value}) for value in values
    ]
    higher = [score_of(best(), {SUCCESS: -value}) for value in values]
    assert lower == higher
    assert since_best([score for score in lower if score is not None], least) == since


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpoint: {best: lr}", "'lr' is not measured of a checkpoint"),
        ("checkpoint: {best: mine/speed}", "whether less or more is better"),
        (
            "checkpoint: {best: answers/success}",
            "nothing measures 'answers/success': set eval.evaluators",
        ),
        (
            "checkpoint: {best: {require: {answers/success: {at_least: 1}}}}",
            "nothing measures 'answers/success'",
        ),
        ("checkpoint: {best: {require: {val_loss: {}}}}", "give 'at_least', 'at_most' or both"),
        ("eval: {patience: 3}", "eval.patience needs evaluations: set eval.every"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN + text)
    with pytest.raises(ConfigError) as refused:
        load(path, RunConfig)
    assert message in str(refused.value)


def test_directions_are_those_of_the_metrics() -> None:
    for metric in ("val_loss", "val_loss/web", "val_loss_average", "val_term/kl", "a/ece"):
        assert BestSection(metric=metric).less, metric
    for metric in ("val_term/accuracy", SUCCESS):
        assert not BestSection(metric=metric).less, metric
    assert BestSection(metric="mine/speed", better="min").less
    with pytest.raises(ValidationError):
        BestSection(metric="tokens/web")

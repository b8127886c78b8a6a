"""Evaluators of a run's checkpoints: what is measured beside training, when, and on what."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, JsonValue, model_validator

from manta.config.on_change import OnChange
from manta.config.section import Section
from manta.config.units import PositiveTokens


class EvaluatorsSection(Section):
    """Evaluators that measure checkpoints beside training, as a task of Ray.

    A checkpoint that is due is kept until its result is in the run's folder, where
    `manta evaluate RUN@STEP` would write it. The path of a config alone stands for the section.
    """

    on_change: ClassVar[OnChange] = OnChange.NOTE

    config: str | dict[str, JsonValue] = Field(
        description="config of the evaluation, as of manta evaluate: a path, or its keys"
    )
    every: PositiveTokens | None = Field(
        default=None,
        description="tokens between two checkpoints that are saved and evaluated, and the last "
        "one; if left out, those of checkpoint.every and checkpoint.at, and the last one",
    )
    resources: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        default=None,
        description="Ray resources of an evaluation, such as {GPU: 1}; those of a worker if left "
        "out",
    )

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_path(cls, given: Any) -> Any:
        return {"config": given} if isinstance(given, str) else given

"""Which of a run's checkpoints is the best: by a metric, among those that meet some bounds."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from manta.config.metrics import (
    VAL_LOSS,
    VAL_LOSS_AVERAGE,
    VAL_LOSS_OF,
    VAL_TERM,
    better,
    of_evaluator,
)
from manta.config.on_change import OnChange
from manta.config.section import Section
from manta.config.thresholds import ThresholdSection


class BestSection(Section):
    """The metric that decides which checkpoint is the best, which is kept; eval.patience too.

    It is one of validation, such as val_loss, or of an evaluator beside training, such as
    answers/success. The metric's name alone stands for the section.
    """

    on_change: ClassVar[OnChange] = OnChange.NOTE

    metric: str = Field(
        default=VAL_LOSS,
        description="val_loss, val_loss/SOURCE, val_loss_average, val_term/NAME, or "
        "EVALUATOR/METRIC of eval.evaluators",
    )
    better: Literal["min", "max"] | None = Field(
        default=None,
        description="whether less or more of it is better; as the metric has it if left out",
    )
    require: dict[str, ThresholdSection] = Field(
        default_factory=dict,
        description="such a metric: its bounds; a checkpoint that keeps all is better than one "
        "that doesn't",
    )

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_metric(cls, given: Any) -> Any:
        return {"metric": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _is_measured(self) -> BestSection:
        for name in (self.metric, *self.require):
            whole = name.partition("[")[0]
            known = whole in (VAL_LOSS, VAL_LOSS_AVERAGE) or of_evaluator(whole)
            if not known and not whole.startswith((VAL_LOSS_OF, VAL_TERM)):
                raise ValueError(
                    f"'{name}' is not measured of a checkpoint: take val_loss, another metric of "
                    "validation, or EVALUATOR/METRIC"
                )
        if self.better is None and self._direction() is None:
            raise ValueError(
                f"of '{self.metric}' it isn't known whether less or more is better: say so with "
                "better: min, or better: max"
            )
        return self

    def _direction(self) -> Literal["min", "max"] | None:
        name = self.metric.partition("[")[0]
        return "min" if name.startswith(VAL_LOSS) else better(name)

    @property
    def less(self) -> bool:
        """Whether less of the metric is better."""
        return (self.better or self._direction()) == "min"

    @property
    def beside(self) -> tuple[str, ...]:
        """The metrics that evaluators beside training measure."""
        return tuple(name for name in (self.metric, *self.require) if of_evaluator(name))

    @property
    def by_evaluators(self) -> bool:
        """Whether the best is known only once evaluators have measured a checkpoint."""
        return bool(self.beside)

"""Bounds of a metric."""

from __future__ import annotations

from pydantic import Field, model_validator

from manta.config.section import Section


class ThresholdSection(Section):
    """Bounds of a metric."""

    at_least: float | None = Field(default=None, description="smallest value that passes")
    at_most: float | None = Field(default=None, description="largest value that passes")

    @model_validator(mode="after")
    def _has_a_bound(self) -> ThresholdSection:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give 'at_least', 'at_most' or both")
        return self

    def holds(self, value: float | None) -> bool:
        """Whether a value lies within the bounds; not if there is none."""
        if value is None:
            return False
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)

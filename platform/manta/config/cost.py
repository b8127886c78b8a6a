"""What devices cost, and what a run may cost in money and time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from manta.config.on_change import OnChange
from manta.config.section import Section


class CostSection(Section):
    """What devices cost, and what a run may cost; how many workers it holds follows from that."""

    on_change: ClassVar[OnChange] = OnChange.KEEP

    per_device_hour: float | None = Field(
        default=None, ge=0, description="price of a device for an hour, in any currency"
    )
    by_kind: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="price of a device for an hour by kind of node, as {spot: 0.7, on-demand: 2}",
    )
    kind_label: str = Field(
        default="ray.io/market-type",
        min_length=1,
        description="label of Ray's nodes whose value is their kind in by_kind",
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        description="money that the run may cost; it is saved and ends when that is spent",
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        description="hours from the run's first start in which it should be done",
    )

    @model_validator(mode="after")
    def _priced(self) -> CostSection:
        if self.budget is not None and not self.has_price:
            raise ValueError("a budget needs prices: set per_device_hour, or by_kind")
        return self

    @property
    def has_price(self) -> bool:
        """Whether devices have a price, on some kind of node at least."""
        return self.per_device_hour is not None or bool(self.by_kind)

    @property
    def usual_price(self) -> float | None:
        """Price of a device for an hour on a node of any kind; None without prices."""
        return self.highest_price if self.has_price else None

    @property
    def chooses(self) -> bool:
        """Whether the number of workers follows from money or time."""
        return self.budget is not None or self.deadline is not None

    def price_of(self, labels: Mapping[str, str]) -> float:
        """Price of a device for an hour on a node with these labels.

        A node of a kind that has no price costs `per_device_hour`, or as much as the dearest kind.
        """
        known = self.by_kind.get(labels.get(self.kind_label, ""))
        return self.highest_price if known is None else known

    @property
    def highest_price(self) -> float:
        """Price of a device for an hour on a node that nothing is known of; 0 without prices."""
        if self.per_device_hour is not None:
            return self.per_device_hour
        return max(self.by_kind.values(), default=0.0)

"""How many workers a run has, and what each of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from manta.config.on_change import OnChange, key
from manta.config.section import Section

# Label of Ray's nodes → values of which one is meant.
Labels = dict[
    Annotated[str, Field(min_length=1)],
    Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)],
]


def gpus_of(resources: Mapping[str, float]) -> float:
    """GPUs, or shares of one, among the Ray resources of a worker; 0 if it computes on a CPU."""
    return resources.get("GPU", 0.0)


class ScalingSection(Section):
    """How many workers, and what each of them holds."""

    on_change: ClassVar[OnChange] = OnChange.KEEP

    min: int = Field(default=1, ge=1, description="fewest workers that a run trains with")
    max: int | None = Field(
        default=None, ge=1, description="most workers; the same as min if left out"
    )
    resources_per_worker: dict[str, Annotated[float, Field(ge=0)]] = key(
        OnChange.KEEP,
        rounds=True,
        default_factory=lambda: {"CPU": 1.0},
        description="Ray resources of each worker, such as {GPU: 1, CPU: 4}",
    )
    spares: int | None = Field(
        default=None,
        ge=0,
        description="warm processes on each node for a restart; one for each worker if left out",
    )
    prefer: Labels = Field(
        default_factory=dict,
        description="labels of nodes that workers go to first, as {ray.io/market-type: spot}",
    )
    prefer_wait: float = Field(
        default=60.0,
        ge=0,
        description="seconds to wait for a preferred node that an autoscaler may start",
    )
    avoid: Labels = Field(
        default_factory=dict,
        description="labels of nodes that workers never go to, as {zone: [a, b]}",
    )
    node_stay: float = Field(
        default=3600.0,
        gt=0,
        description="seconds that a node usually stays, to decide whether growing pays",
    )
    throughput: float | None = Field(
        default=None,
        gt=0,
        description="tokens/s of a worker, to decide whether growing pays; measured if left out",
    )
    settle: float = Field(
        default=30.0, ge=0, description="fewest seconds that a group trains before it grows"
    )
    hang_timeout: float = Field(
        default=120.0,
        gt=0,
        description="seconds without a sign of life, after which workers are replaced",
    )

    @field_validator("prefer", "avoid", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {key: value if isinstance(value, list) else [value] for key, value in given.items()}

    @model_validator(mode="after")
    def _distinct(self) -> ScalingSection:
        for label, values in self.prefer.items():
            if both := sorted(set(values) & set(self.avoid.get(label, ()))):
                raise ValueError(f"prefer and avoid both have {label}: {both[0]}")
        return self

    @model_validator(mode="after")
    def _ordered(self) -> ScalingSection:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self

    @property
    def devices_per_worker(self) -> float:
        """Devices of a worker, for device hours and cost: its GPUs, or 1 if it has none."""
        return gpus_of(self.resources_per_worker) or 1.0

    @property
    def upper(self) -> int:
        """The largest number of workers allowed."""
        return self.min if self.max is None else self.max

"""What a run is a part of, for those who look at many runs side by side."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from manta.config.metrics import VAL_LOSS


class RunContext(BaseModel):
    """Said in W&B beside the run's own config and results.

    Attributes:
        job_type: what kind of run it is there.
        config: sections beside those of the run's config.
        label: what tells it from the others, for its name there.
        metric: a key of the rows, whose last and best value are in the summary.
        mode: whether its smallest or its largest value is the best.
    """

    model_config = ConfigDict(frozen=True)

    job_type: str
    config: dict[str, Any]
    label: str = ""
    metric: str = VAL_LOSS
    mode: Literal["min", "max"] = "min"

"""Facts about the sweep that a run is part of, for views that show many runs side by side."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from manta.config.metrics import VAL_LOSS


class RunContext(BaseModel):
    """Facts that W&B shows beside the run's own config and results.

    Attributes:
        job_type: the run's job type in W&B, such as "trial".
        config: further config sections for W&B, beside those of the run's config.
        label: the text in the run's W&B name that tells it from its siblings.
        metric: the key in rows whose last and best value go into the W&B summary.
        mode: whether the smallest ("min") or largest ("max") value of `metric` is the best.
    """

    model_config = ConfigDict(frozen=True)

    job_type: str
    config: dict[str, Any]
    label: str = ""
    metric: str = VAL_LOSS
    mode: Literal["min", "max"] = "min"

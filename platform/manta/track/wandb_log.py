"""The Weights & Biases side of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.config import RunConfig
from manta.track.record import RunRecord


class WandbLog:
    """Rows on their way to W&B."""

    @classmethod
    def start(cls, config: RunConfig, record: RunRecord) -> WandbLog:
        return cls()

    def log(self, row: Mapping[str, Any]) -> None: ...
    def messages(self) -> list[str]:
        return []

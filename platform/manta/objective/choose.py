"""The objective of a run, by its config."""

from __future__ import annotations

from manta.config.run import RunConfig
from manta.objective.causal import Causal
from manta.objective.protocol import Objective


def objective_of(config: RunConfig) -> Objective:
    """What a run trains on."""
    return Causal(document_mask=config.data.document_mask)

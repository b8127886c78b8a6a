"""Runs on a frozen base, with the record that an export and a fork read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from manta.elastic.checks.preflight import Checked
from manta.train.export import load_weights

Build = Callable[..., Checked]
EVERY = 16 * 7 * 4  # tokens between two checkpoints: four steps


def adapted(
    checked: Build, name: str, corpus: Path, model: dict[str, Any], **changes: Any
) -> Checked:
    """A run by which `model` is adapted to a corpus, checked; it has a record and a config."""
    run = checked(
        {
            "run.name": name,
            "corpus": str(corpus),
            "model": model,
            "schedule.lr": 3e-2,
            "checkpoint.every": EVERY,
            "eval": {"every": EVERY, "tokens": 16 * 9},
            **changes,
        }
    )
    run.tracker(console=False).finish("interrupted", reason="")
    return run


def weights_of(run: Checked) -> dict[str, Tensor]:
    """All weights of a run's newest model, by name."""
    return dict(load_weights(run.run_dir, run.config, None).named_parameters())

"""A tiny run on rows of conversations, pairs or labelled texts: what its tests have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BATCH = 7


def row_run(corpus: Path, objective: str, length: int, steps: int) -> dict[str, Any]:
    """Changes of the usual tiny run, which make it one on such a corpus.

    Args:
        corpus: folder of the corpus.
        objective: type of the objective.
        length: tokens of a row.
        steps: steps of the run, with a checkpoint after every third and an evaluation every fourth.
    """
    step = length * BATCH
    return {
        "corpus": str(corpus),
        "objective.type": objective,
        "data.document_mask": True,
        "train": {"seq_len": length, "micro_batch": 3},
        "schedule": {"horizon": step * steps, "lr": 3e-3, "batch": BATCH},
        "checkpoint.every": step * 3,
        "eval": {"every": step * 4, "tokens": 100_000},
    }

"""`prepare` without Ray: the same passes in this process, in order, without Ray's start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Run what `prepare` would have Ray do in this process, until `patch` is undone."""

    def run(task: Any, orders: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for order in orders:
            yield json.loads(json.dumps(task(json.loads(json.dumps(order)))))

    patch.setattr("manta.corpus.worker_pool.run", run)
    patch.setattr("ray.is_initialized", lambda: True)
    patch.setenv("TOKENIZERS_PARALLELISM", "false")  # restored afterwards

"""Keeps the actors that Ray Data leaves running off nodes that may be released.

The first dataset of a cluster starts actors that outlive it, on the node that reads it. An
autoscaler releases no node on which an actor runs, so after the first run one node of the pool
would stay, and cost money, for ever. So the first dataset is read on the head, here.
"""

from __future__ import annotations

from typing import Any

import ray

# Actor names, internal to Ray Data 2.60: if one of them exists, a dataset has been read.
# tests/e2e/test_autoscaling.py checks where the actors are, and that nodes are released.
RESIDENTS = {"AutoscalingCoordinator", "datasets_stats_actor", "DataUsageCollectionActor"}
# A resource that only the head's node has.
HEAD = "node:__internal_head__"


def settle() -> Any | None:
    """Start Ray Data's actors on the head; a reference that is ready then, or None if they exist.

    Call it before any dataset is read. Returns at once.
    """
    head = next((n for n in ray.nodes() if n["Alive"] and HEAD in n["Resources"]), None)
    named = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    if head is None or named & RESIDENTS:
        return None
    here = {"ray.io/node-id": head["NodeID"]}
    options = {"num_cpus": 0, "label_selector": here, "scheduling_strategy": "DEFAULT"}
    return ray.remote(_read_a_row).options(**options).remote(here)


def _read_a_row(here: dict[str, str]) -> None:
    from ray.data import DataContext, from_items

    DataContext.get_current().enable_progress_bars = False
    rows = from_items([0]).map_batches(_same, num_cpus=0, concurrency=1, label_selector=here)
    rows.materialize()


def _same(batch: Any) -> Any:
    return batch

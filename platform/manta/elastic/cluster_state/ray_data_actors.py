"""What Ray Data leaves running in a cluster, kept off the nodes that come and go.

The first dataset of a cluster starts actors that outlive it, on the node of whoever reads it. An
autoscaler takes no node away on which an actor runs, so that after the first run one node of
the pool would stay, and be paid for, for ever. Here that first dataset is read on the head.
"""

from __future__ import annotations

from typing import Any

import ray

# Names that are internal to Ray Data 2.60: where one of them is, a dataset has been read.
# tests/e2e/test_autoscaling.py sees where they are, and that nodes go.
RESIDENTS = {"AutoscalingCoordinator", "datasets_stats_actor", "DataUsageCollectionActor"}
# A resource that Ray gives to the head's node alone.
HEAD = "node:__internal_head__"


def settle() -> Any | None:
    """Have them started on the head; a reference to when they are, or None if nothing is to do.

    To be called before anybody reads. Returns at once.
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

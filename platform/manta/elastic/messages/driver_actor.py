"""Actors that serve one run or one sweep, on its driver's node, for as long as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.actor import ActorHandle


@contextmanager
def beside_driver(kind: type, *arguments: Any) -> Iterator[ActorHandle]:
    """An actor of a class on the driver's node, so that no worker's node takes it along.

    It ends with the block: Ray Train and Tune keep what they were given, and with it the actor,
    for the driver's life, in which there may be many runs.
    """
    here = ray.get_runtime_context().get_node_id()
    actor = ray.remote(num_cpus=0, label_selector={"ray.io/node-id": here})(kind)
    handle = actor.remote(*arguments)
    try:
        yield handle
    finally:
        with suppress(Exception):  # a Ray that is gone has taken it along
            ray.kill(handle)

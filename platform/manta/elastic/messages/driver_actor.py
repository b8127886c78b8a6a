"""Actors that serve one run or one sweep, on the driver's node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.actor import ActorHandle


@contextmanager
def beside_driver(kind: type, *arguments: Any) -> Iterator[ActorHandle]:
    """An actor on the driver's node, so that it does not die with a worker's node.

    The block's end kills it: Ray Train and Tune keep references to it for the driver's life, in
    which there may be many runs.
    """
    here = ray.get_runtime_context().get_node_id()
    actor = ray.remote(num_cpus=0, label_selector={"ray.io/node-id": here})(kind)
    handle = actor.remote(*arguments)
    try:
        yield handle
    finally:
        with suppress(Exception):  # if Ray has ended, so has the actor
            ray.kill(handle)

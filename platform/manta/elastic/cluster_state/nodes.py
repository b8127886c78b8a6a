"""Which nodes are alive now.

Ray notices only after many seconds that a node died silently; a connection to the raylet's
port shows it at once.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

# Seconds in which a live raylet answers on any reasonable network.
PROBE_SECONDS = 1.0


def alive() -> dict[str, dict[str, Any]]:
    """Node id → entry of `ray.nodes()`, for the nodes that Ray considers alive."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def is_here(node: str) -> bool:
    """Whether a node runs on this process's machine."""
    found = alive().get(node)
    return found is not None and found["NodeManagerAddress"] == ray.util.get_node_ip_address()


def draining() -> dict[str, float | None]:
    """Id of each draining node → its deadline in seconds since the epoch, or None."""
    # Internal to Ray 2.60, as is every way to ask; tests/elastic/test_places.py guards it.
    deadlines = ray._private.state.state.get_draining_nodes()
    return {node: ms / 1000 if ms else None for node, ms in deadlines.items()}


def lost(nodes: Iterable[str]) -> set[str]:
    """The nodes that are gone: not alive for Ray, or with a raylet that doesn't answer."""
    known = alive()
    wanted = set(nodes)
    there = [known[node] for node in wanted if node in known]
    with ThreadPoolExecutor(max(1, min(len(there), 64))) as pool:
        answers = list(pool.map(_answers, there))
    return (wanted - set(known)) | {
        node["NodeID"] for node, answer in zip(there, answers, strict=True) if not answer
    }


def addresses_of(gone: Iterable[str]) -> set[str]:
    """The IP addresses of nodes that are gone, without those at which another node is alive."""
    names = set(gone)
    there = {node["NodeManagerAddress"] for name, node in alive().items() if name not in names}
    return {n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] in names} - there


def _answers(node: dict[str, Any]) -> bool:
    address = (node["NodeManagerAddress"], node["NodeManagerPort"])
    try:
        with socket.create_connection(address, timeout=PROBE_SECONDS):
            return True
    except OSError:
        return False


def leaving(nodes: Iterable[str]) -> dict[str, float | None]:
    """The draining ones of `nodes`, with their deadlines."""
    wanted = set(nodes)
    return {node: at for node, at in draining().items() if node in wanted}


def room_for(resources: dict[str, float]) -> int:
    """The number of workers that need `resources` each which all nodes hold when empty."""
    leave = draining()
    return sum(
        _fit(resources, node["Resources"]) for name, node in alive().items() if name not in leave
    )


def free_for(resources: dict[str, float], most: int) -> dict[str, int]:
    """Node id → number of workers that fit there now, `most` in all."""
    # Internal to Ray 2.60, whose public functions give free resources of the whole cluster, not
    # of a node; tests/elastic/test_places.py guards it.
    free = ray._private.state.available_resources_per_node()
    leave, found = draining(), {}
    for name, node in alive().items():
        # A node that has just joined is missing in `free`: all of it is free.
        count = min(_fit(resources, free.get(name, node["Resources"])), most)
        if count and name not in leave:
            found[name] = count
            most -= count
    return found


def _fit(resources: dict[str, float], have: Mapping[str, float]) -> int:
    return min((int(have.get(k, 0) / v) for k, v in resources.items() if v > 0), default=1)

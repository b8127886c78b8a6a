"""A Ray for one process alone, with only those of Ray's processes that it needs.

Ray starts three more of Python's for each head node: one that asks a cloud for nodes, one that
passes workers' logs on, and the dashboard's server, for which `ray.init` waits even when no
dashboard is wanted. On one machine they serve nobody, and start at the moment when all cores
are needed for imports. The agent of the node is asked to do what it does for a Ray that was
installed without its dashboard. No metrics are collected, which only a dashboard would show:
those of Ray Data take more memory, for good, with each dataset.

`ray._private.node.Node` is internal to Ray 2.60, and so are the settings of its processes;
tests/cluster/test_embedded.py guards what is used of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import node

# Ray imports it to see whether the dashboard was installed with it.
DASHBOARD_INSTALLED = "ray.dashboard.optional_deps"
# Nothing shows the history of tasks either, of which the head keeps the last 100,000.
SETTINGS = {"enable_metrics_collection": False, "task_events_report_interval_ms": 0}


class SoleNode(node.Node):  # type: ignore[misc]
    """A head node that no other node, and no browser, will ever come to."""

    def start_monitor(self) -> None:
        """Not: it runs the autoscaler, and this machine is all there is."""

    def start_log_monitor(self) -> None:
        """Not: what workers print stays in their files."""

    def start_api_server(self, **_: Any) -> None:
        """Not: its address would be that of the dashboard."""

    def start_raylet(self, *args: Any, **more: Any) -> None:
        """Ray's, which starts the node's agent as well."""
        with _hidden(DASHBOARD_INSTALLED):
            super().start_raylet(*args, **more)


def start(**options: Any) -> None:
    """Start Ray, as `ray.init` does with these options, and connect to it."""
    before, node.Node = node.Node, SoleNode
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _system_config=dict(SETTINGS),  # Ray adds to it
            **options,
        )
    finally:
        node.Node = before


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Have importing `module` fail, as if it were not installed."""
    before = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before

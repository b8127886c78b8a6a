"""A Ray for one process alone, with only those of Ray's processes that it needs.

For each head node Ray also starts three Python processes: the autoscaler's monitor, the log
monitor, and the dashboard's server, which `ray.init` waits for even when no dashboard is wanted.
On a single machine they have no use, and they start when all cores are needed for imports. A node
doesn't start without the dashboard's agent, so `idle_agent`, which does nothing, runs in its
place. No metrics are collected, as only a dashboard would show them: those of Ray Data take more
memory with each dataset and never free it. Workers are started by a script of Manta's
(`worker_setup`), which doesn't import Ray.

Ray gives its processes 30 seconds each, which a busy machine or a slow disk may exceed. Here a
second try has more time, the user is told of it, and a process that has ended is not waited for.

`ray._private.node.Node` is internal to Ray 2.60, and so are the settings of its processes;
tests/cluster/test_embedded.py guards what is used of them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import node, ray_constants, services

from manta.cluster import idle_agent, worker_setup
from manta.cluster.waiting import how_busy, say
from manta.config.errors import RunError
from manta.storage.socket_folder import fits, socket_folder

T = TypeVar("T")
# Without a dashboard nothing shows the history of tasks, of which the head keeps the last 100,000.
SETTINGS = {"enable_metrics_collection": False, "task_events_report_interval_ms": 0}
# Seconds that each of Ray's processes may take to start, in the first try and in the second.
WAITS = (30.0, 300.0)
# The longest path, relative to Ray's folder, that Ray binds a socket to.
LONGEST = "session_2026-11-28_18-43-38_123456_1234567/sockets/plasma_store"


class NotUp(Exception):
    """Ray's processes did not start; the message names the process and the folder of the logs."""


class SoleNode(node.Node):  # type: ignore[misc]
    """A head node without a dashboard, which no other node joins."""

    wait = WAITS[0]

    def __init__(self, *args: Any, **more: Any) -> None:
        ask_port, ask_node = node.wait_for_persisted_port, services.get_node

        def port(folder: str, node_id: str, name: str, timeout_ms: int) -> Any:
            return self._once_up("gcs_server", lambda: ask_port(folder, node_id, name, 100))

        def registered(address: str, node_id: str) -> Any:
            # Ray's own wait would go on for 30 s even if a process has ended.
            self._once_up("raylet", self._check_socket)
            return self._once_up("raylet", lambda: ask_node(address, node_id))

        with (
            _replaced(node, "wait_for_persisted_port", port),
            _replaced(services, "get_node", registered),
        ):
            try:
                super().__init__(*args, **more)
            except BaseException:
                with suppress(Exception):
                    self.kill_all_processes(check_alive=False, allow_graceful=False)
                raise

    def _once_up(self, process: str, ask: Callable[[], T]) -> T:
        """Call `ask` until it returns; Ray's own waits end too soon, or outlast the process.

        Raises:
            NotUp: if `process` takes longer than `wait`, or one of Ray's processes has ended.
        """
        deadline = time.monotonic() + self.wait
        while True:
            try:
                return ask()
            except RuntimeError:
                why = self._ended()
                if why is None and time.monotonic() > deadline:
                    why = f"its process {process} did not answer within {self.wait:.0f} s"
            if why is not None:
                raise NotUp(f"{why}; {how_busy()}; its logs: {self._logs_dir}")
            time.sleep(0.1)

    def _check_socket(self) -> None:
        if not Path(self._raylet_socket_name).exists():
            raise RuntimeError("no raylet listens yet")

    def _ended(self) -> str | None:
        """Which of Ray's processes has ended, and how; None if all run."""
        for name, infos in self.all_processes.items():
            for code in (info.process.poll() for info in infos):
                if code is not None:
                    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                    return f"its process {name} {how}"
        return None

    def start_monitor(self) -> None:
        """Don't start the autoscaler: there is one machine only."""

    def start_log_monitor(self) -> None:
        """Don't start the log monitor: what workers print stays in their log files."""

    def start_api_server(self, **_: Any) -> None:
        """Don't start the server of the dashboard."""


@contextmanager
def started(waits: tuple[float, ...] = WAITS) -> Iterator[None]:
    """Start Ray and be connected to it for the block.

    Args:
        waits: seconds that each of Ray's processes may take, in each try.

    Raises:
        RunError: if Ray can't be started, with the reason and the folder of its logs.
    """
    try:
        with ExitStack() as stack:
            usual = get_default_ray_temp_dir()
            short = None if fits(usual, LONGEST) else stack.enter_context(socket_folder(LONGEST))
            _start_patiently(waits, short)
            stack.callback(ray.shutdown)
            yield
    except NotUp as error:
        raise RunError(
            f"Ray did not start on this machine: {error}. Try again when the machine is less busy "
            "and has free memory, or give --address of a running Ray"
        ) from None


def _start_patiently(waits: tuple[float, ...], folder: Path | None) -> None:
    """Start Ray, in up to `len(waits)` tries; its sockets and logs go to `folder` if given."""
    for wait, more in zip_longest(waits, waits[1:]):
        SoleNode.wait = wait
        try:
            with _replaced(node, "Node", SoleNode), light_processes():
                _init(folder)
            return
        except NotUp as error:
            if more is None:
                raise
            say(f"Ray did not start: {error}; trying once more, for up to {more:.0f} s")
        except OSError as error:
            raise RunError(
                f"Ray can't start on this machine: {error}; it writes to "
                f"{folder or get_default_ray_temp_dir()}: set TMPDIR to a writable folder with "
                "free space"
            ) from None


def _init(folder: Path | None) -> None:
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _system_config=dict(SETTINGS),  # a copy, as Ray adds keys to it
        _temp_dir=None if folder is None else str(folder),
    )


@contextmanager
def light_processes() -> Iterator[None]:
    """Have nodes that this process starts in the block use `worker_setup` and `idle_agent`.

    `worker_setup` starts their workers; `idle_agent` replaces the dashboard's agent.
    """
    command = services._build_python_executable_command_memory_profileable

    def python(component: str, *arguments: Any, **more: Any) -> list[str]:
        if component == ray_constants.PROCESS_TYPE_DASHBOARD_AGENT:
            return [sys.executable, "-I", "-S", idle_agent.__file__]
        return list(command(component, *arguments, **more))

    with (
        _replaced(ray_constants, "SETUP_WORKER_FILENAME", worker_setup.__file__),
        _replaced(services, command.__name__, python),
    ):
        yield


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """Set `module.name` to `value` for the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)

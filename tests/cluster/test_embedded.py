"""Ray in a process of Manta's own: what it starts, what it leaves out, and that it works."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from ray import _raylet
from ray._private import node, services, utils

from manta.cluster.embedded import DASHBOARD_INSTALLED, SETTINGS, SoleNode

# Prints the scripts of Ray's processes while a task has run in it, and those left afterwards.
PROGRAM = """
import psutil
import ray
from ray._private import node

from manta.cluster.embedded import SETTINGS
from manta.cluster.session import ray_session

def commands():
    found = psutil.Process().children(recursive=True)
    return [" ".join(child.cmdline()) for child in found if child.is_running()]

theirs, given = node.Node, dict(SETTINGS)
with ray_session():
    assert node.Node is theirs
    assert SETTINGS == given, "Ray writes into what it gets, and would warn of it the next time"
    assert ray.get(ray.remote(num_cpus=0)(lambda: 7).remote()) == 7
    print("\\n".join(commands()))
print("---")
print("\\n".join(filter(None, commands())))
"""


def test_an_embedded_ray_has_no_process_that_serves_nobody() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    running, left = done.stdout.split("---\n")
    assert "gcs_server" in running  # so that what is looked for below would be seen
    assert "raylet" in running
    for script in ("monitor.py", "log_monitor.py", "dashboard.py"):
        assert script not in running
    assert not left.strip()


def test_what_is_left_out_is_what_ray_starts_by_these_names() -> None:
    """Each is called by Ray's own start of a head node, and overridden with its arguments."""
    source = inspect.getsource(node.Node)
    for name in ("start_monitor", "start_log_monitor", "start_api_server", "start_raylet"):
        assert f"self.{name}(" in source, f"Node.{name} is no longer called: read cluster/embedded"
        assert name in vars(SoleNode)
        assert name in vars(node.Node)
    options = inspect.signature(node.Node.start_api_server).parameters.values()
    assert {option.kind for option in list(options)[1:]} == {inspect.Parameter.KEYWORD_ONLY}


def test_ray_asks_for_its_dashboard_as_it_did() -> None:
    assert "get_dashboard_dependency_error" in inspect.getsource(services.start_raylet)
    assert DASHBOARD_INSTALLED in inspect.getsource(utils.get_dashboard_dependency_error)


def test_rays_processes_know_the_settings_that_they_are_given() -> None:
    """One that they don't know would keep Ray from starting, with no word of why."""
    library = Path(_raylet.__file__).read_bytes()
    assert [name for name in SETTINGS if name.encode() not in library] == []

"""Ray in a process of Manta's own: what it starts, what it leaves out, and that it works."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

from ray import _raylet
from ray._private import node, services, worker

from manta.cluster import idle_agent
from manta.cluster.embedded import SETTINGS, SoleNode

# Prints the scripts of Ray's processes while a task has run in it, and those left afterwards.
PROGRAM = """
import os
import signal
import sys

import psutil
import ray
from ray._private import node

from manta.cluster.embedded import SETTINGS
from manta.cluster.session import ray_session

def commands():
    found = psutil.Process().children(recursive=True)
    return [" ".join(child.cmdline()) for child in found if child.is_running()]

def dies():
    os._exit(1)

theirs, given = node.Node, dict(SETTINGS)
before = signal.getsignal(signal.SIGTERM)
with ray_session():
    assert signal.getsignal(signal.SIGTERM) is before, "Ray's prints a stack trace"
    try:
        ray.get(ray.remote(num_cpus=0, max_retries=0)(dies).remote())
        raise AssertionError("it did not die")
    except ray.exceptions.WorkerCrashedError:
        os.write(2, b"a library talks")
        print("we talk", file=sys.stderr)
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
    assert done.stderr == "we talk\n", "what Ray and libraries say is not for people"
    shown = re.fullmatch(r"(?:starting Ray.*\n)+(?s:(.*))---\n(?s:(.*))", done.stdout)
    assert shown is not None, done.stdout
    running, left = shown.groups()
    assert "gcs_server" in running  # so that what is looked for below would be seen
    assert "raylet" in running
    for script in ("monitor.py", "log_monitor.py", "dashboard.py"):
        assert script not in running
    assert not left.strip()


def test_what_is_left_out_is_what_ray_starts_by_these_names() -> None:
    """Each is called by Ray's own start of a head node, and overridden with its arguments."""
    source = inspect.getsource(node.Node)
    for name in ("start_monitor", "start_log_monitor", "start_api_server"):
        assert f"self.{name}(" in source, f"Node.{name} is no longer called: read cluster/embedded"
        assert name in vars(SoleNode)
        assert name in vars(node.Node)
    options = inspect.signature(node.Node.start_api_server).parameters.values()
    assert {option.kind for option in list(options)[1:]} == {inspect.Parameter.KEYWORD_ONLY}


def test_what_is_replaced_is_what_ray_asks_while_it_starts() -> None:
    source = inspect.getsource(node.Node)
    assert "wait_for_persisted_port(\n" in source
    assert "ray._private.services.get_node(\n" in source
    assert "target=listen_error_messages" in inspect.getsource(worker.connect)


def test_ray_looks_for_an_agent_where_ours_says_that_there_is_none(tmp_path: Path) -> None:
    """For each port that Ray's own says; and ours ends with the raylet, however that ends."""
    source = inspect.getsource(services.start_raylet)
    assert source.count("PROCESS_TYPE_DASHBOARD_AGENT") == 2  # its program, and how it logs
    raylet = subprocess.Popen(["sleep", "1000"])
    number = "ab" * 28
    options = [f"--session-dir={tmp_path}", "--minimal"]
    agent = subprocess.Popen(
        [sys.executable, "-I", "-S", idle_agent.__file__, "agent.py", *options],
        env={**os.environ, "RAY_RAYLET_PID": str(raylet.pid), "RAY_NODE_ID": number},
    )
    ports = (
        _raylet.METRICS_AGENT_PORT_NAME,
        _raylet.METRICS_EXPORT_PORT_NAME,
        _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    )
    for name in ports:
        assert _raylet.wait_for_persisted_port(str(tmp_path), number, name, 300_000) == -1
    assert agent.poll() is None
    raylet.kill()  # and left for a while as one that nobody has waited for
    assert agent.wait(300) == 0
    raylet.wait()


def test_rays_processes_know_the_settings_that_they_are_given() -> None:
    """One that they don't know would keep Ray from starting, with no word of why."""
    library = Path(_raylet.__file__).read_bytes()
    assert [name for name in SETTINGS if name.encode() not in library] == []


# Starts Ray with processes in the place of Ray's own: one waits at a gate, the other ends.
REPLACED = """
import sys
from ray._private import services

from manta.cluster import embedded
from manta.config.errors import RunError

name, script, *waits = sys.argv[1:]
setattr(services, name, script)
try:
    with embedded.started(tuple(map(float, waits))):
        print("up")
except RunError as error:
    print(f"error: {error}")
"""


def started_with(name: str, script: Path, text: str, *waits: float) -> subprocess.Popen[str]:
    """A process that starts Ray with a script in the place of one of its executables."""
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return subprocess.Popen(
        [sys.executable, "-c", REPLACED, name, str(script), *map(str, waits)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )


def test_a_machine_that_is_slow_to_start_ray_is_told_of_and_tried_again(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    text = f'while [ ! -e "{gate}" ]; do sleep 0.1; done; exec "{services.RAYLET_EXECUTABLE}" "$@"'
    process = started_with("RAYLET_EXECUTABLE", tmp_path / "raylet", text, 2.0, 120.0)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert re.match(
        r"Ray did not start: its process \w+ did not answer within 2 s; load .* logs: /", first
    )
    assert "trying once more" in first
    gate.touch()
    assert process.communicate(timeout=300)[0] == "up\n"


def test_a_process_of_rays_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    process = started_with("GCS_SERVER_EXECUTABLE", tmp_path / "gcs", "exit 3", 1000.0)
    told = process.communicate(timeout=300)[0]
    assert told.startswith(
        "error: Ray did not start on this machine: its process gcs_server ended with"
    )
    assert "/logs. Try again when the machine is less busy" in told

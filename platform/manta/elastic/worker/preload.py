"""Workers on this machine that begin with their imports done: copies of one process.

A worker's imports take about five seconds of processor time. Here one process imports Torch,
Transformers and the engine (`preload_server`), while Ray starts, and forks itself for each worker.
What a Ray that Manta starts runs for any of its workers, and any Ray as the Python of those that
train, by its setting `py_executable`, asks for a copy (`cluster/worker_setup`), and becomes a usual
Python if there is nobody to ask.

A copy imports Ray by itself: Ray reads its process's environment when it is loaded, the job among
it. Where workers have accelerators they are usual processes, until copies were seen to work there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from manta.cluster import worker_setup
from manta.cluster.session import cluster_of
from manta.config.run import RunConfig, gpus_of
from manta.elastic.worker.environment import runtime_env_of
from manta.storage.socket_folder import socket_folder

# Says where the process to be copied listens, from where it has the package and with which
# variables it was started: for drivers that are started from this one, a sweep's. One with another
# package starts its workers itself, and one with other variables a process to be copied of its own.
VARIABLE = worker_setup.VARIABLE
SOCKET = "socket"
ROOT = worker_setup.ROOT
# Run as a script, and not imported here: what it imports is for its own process.
SERVER = Path(__file__).with_name("preload_server.py")
CLIENT = Path(worker_setup.__file__)


def preloaded_for(config: RunConfig, address: str | None) -> AbstractContextManager[None]:
    """`preloaded` for a run whose Ray will be on this machine; nothing if it has a cluster."""
    if cluster_of(address):
        return nullcontext()
    return preloaded(config.scaling.resources_per_worker, config.model.type)


@contextmanager
def preloaded(resources: Mapping[str, float], model_type: str | None) -> Iterator[None]:
    """Have workers that are started in the block, on this machine, be copies.

    Args:
        resources: of each.
        model_type: of Transformers, to import its classes as well.
    """
    if gpus_of(resources) or sys.platform != "linux":  # elsewhere libraries don't bear a fork
        yield
        return
    variables = runtime_env_of(resources)["env_vars"]
    if _is_served(variables):
        yield
        return
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(socket_folder(SOCKET))
            process = _start(folder / SOCKET, variables, model_type)
        except OSError:  # no room for a socket, or for a process: usual processes do as well
            yield
            return
        stack.callback(_end, process)
        stack.enter_context(_named(folder / SOCKET, variables))
        yield


def _is_served(variables: Mapping[str, str]) -> bool:
    """Whether a process above this one has a process to be copied that does for such workers."""
    path, root, digest = _name()
    if root != ROOT or digest != _digest(variables):
        return False
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(path) == 0


@contextmanager
def _named(path: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """Let this process, and those that it starts, know where the process to be copied listens."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = os.pathsep.join([str(path), ROOT, _digest(variables)])
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _start(
    path: Path, environment: Mapping[str, str], model_type: str | None
) -> subprocess.Popen[bytes]:
    """Start the process to be copied. Who asks before it is ready waits."""
    script = [sys.executable, "-P", str(SERVER)]
    importable = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)
        return subprocess.Popen(
            [*script, str(listener.fileno()), *([model_type] if model_type else [])],
            env={**os.environ, **environment, "PYTHONPATH": importable},
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # its end is that of this process
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def python() -> str | None:
    """What Ray is to run as a worker's Python; None if there is no process to be copied."""
    path, root, _ = _name()
    if not path or root != ROOT:
        return None
    return shlex.join([sys.executable, "-I", "-S", str(CLIENT), path])


def _name() -> tuple[str, str, str]:
    """Socket, package and digest of the process to be copied; empty if there is none."""
    path, root, digest = (os.environ.get(VARIABLE, "").split(os.pathsep) + [""] * 3)[:3]
    return path, root, digest


def _digest(variables: Mapping[str, str]) -> str:
    """Of the variables with which a process to be copied is started."""
    return hashlib.sha256(json.dumps(sorted(variables.items())).encode()).hexdigest()[:16]

"""Workers that begin with their imports done are, for the rest, what Ray asked for."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from manta.elastic.cluster_state import nodes
from manta.elastic.controller.group import open_worker
from manta.elastic.worker import preload
from manta.elastic.worker.environment import runtime_env_of

# Says what it finds, and ends as it is told to.
PROGRAM = """
import os, sys
print(__name__, sys.argv[1:], os.environ.get("COLOUR"), os.getcwd(), "torch" in sys.modules)
print(sys.stdin.read(), file=sys.stderr)
assert "ray" not in sys.modules
import preloaded_neighbour
"""


@pytest.fixture(scope="module")
def imported() -> Iterator[None]:
    """A process that is copied for several tests."""
    with preload.preloaded({"CPU": 1}, "llama"):
        yield


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process that could be copied is there from before."""
    monkeypatch.delenv(preload.VARIABLE, raising=False)


def run(program: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program as Ray runs a worker's, by a shell."""
    command = f"exec {preload.python()} {shlex.join([str(program), *arguments])}"
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=300, **options
    )


def write(folder: Path) -> Path:
    (folder / "preloaded_neighbour.py").touch()
    (folder / "program.py").write_text(PROGRAM)
    return folder / "program.py"


def children() -> set[int]:
    """The children of this process: a preload server that was just started is a new one.

    By their numbers: psutil's own idea of the same process goes by the machine's clock. Not by
    their command lines: the kernel lets `Popen` return before a new program's can be read.
    """
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.usefixtures("imported")
def test_a_copy_is_the_program_that_was_asked_for(tmp_path: Path) -> None:
    program, environment = write(tmp_path), {**os.environ, "COLOUR": "blue"}
    done = run(program, "a b", "--c", input="spoken to", cwd=tmp_path, env=environment)
    assert done.stdout == f"__main__ ['a b', '--c'] blue {tmp_path} True\n", done.stderr
    assert done.stderr == "spoken to\n"


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("ending", ["raise OSError('gone')", "import sys; sys.exit(3)"])
def test_the_end_of_a_copy_is_no_others_business(tmp_path: Path, ending: str) -> None:
    (tmp_path / "program.py").write_text(f"print('once', flush=True)\n{ending}\n")
    for _ in range(2):
        done = run(tmp_path / "program.py")
        assert done.stdout == "once\n"
        assert ("OSError: gone" in done.stderr) == ("OSError" in ending)


@pytest.mark.usefixtures("imported")
def test_copies_do_not_draw_the_same(tmp_path: Path) -> None:
    program = "import random, numpy; print(random.random(), numpy.random.random())"
    (tmp_path / "program.py").write_text(program)
    first, second = (run(tmp_path / "program.py").stdout.split() for _ in range(2))
    assert not set(first) & set(second)


@pytest.mark.usefixtures("alone")
def test_a_copy_that_is_stopped_ends_with_the_others(tmp_path: Path) -> None:
    program = "import os, signal; print(os.getpid(), flush=True); os.kill(os.getpid(), 19)"
    (tmp_path / "program.py").write_text(program)
    with preload.preloaded({"CPU": 1}, None):
        command = f"exec {preload.python()} {tmp_path / 'program.py'}"
        asking = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True)
        assert asking.stdout is not None
        copy = psutil.Process(int(asking.stdout.readline()))
        while copy.status() != psutil.STATUS_STOPPED:
            assert copy.is_running()
    copy.wait(timeout=300)
    asking.wait(timeout=300)


@pytest.mark.usefixtures("imported")
def test_a_copy_is_the_leader_of_its_process_group(tmp_path: Path) -> None:
    """Ray ends the whole group of a worker that is gone: no other may be in it."""
    (tmp_path / "program.py").write_text("import os; print(os.getpid() == os.getpgrp())")
    assert run(tmp_path / "program.py").stdout == "True\n"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_without_the_process_it_is_a_usual_python(tmp_path: Path, how: int) -> None:
    """One that is dead; and one that dies when it has been asked."""
    program, before = write(tmp_path), children()
    with preload.preloaded({"CPU": 1}, None):
        (number,) = children() - before
        there = psutil.Process(number)
        there.send_signal(how)
        if how == signal.SIGSTOP:
            command = f"exec {preload.python()} {program}"
            asking = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True)
            while not psutil.Process(asking.pid).net_connections("unix"):
                assert asking.poll() is None
            there.kill()
            said = asking.communicate(timeout=300)[0]
        else:
            there.wait()
            said = run(program).stdout
    assert said.endswith("False\n")


@pytest.mark.usefixtures("alone")
def test_one_that_is_there_is_used_by_drivers_whose_workers_begin_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with preload.preloaded({"CPU": 1}, None):
        there, before = preload.python(), children()
        with preload.preloaded({"CPU": 1}, "gpt2"):
            assert (preload.python(), children()) == (there, before)
        with preload.preloaded({"CPU": 2}, None):  # its workers have two threads
            assert preload.python() != there
        socket, root, digest = os.environ[preload.VARIABLE].split(os.pathsep)
        monkeypatch.setenv(preload.VARIABLE, os.pathsep.join([socket + "-gone", root, digest]))
        with preload.preloaded({"CPU": 1}, None):
            assert "-gone" not in str(preload.python())


def test_where_it_can_not_be_started_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that has no room for another process or socket."""

    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.delenv(preload.VARIABLE, raising=False)
    monkeypatch.setattr(subprocess, "Popen", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with preload.preloaded({"CPU": 1}, None):
        assert preload.python() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("alone")
def test_it_ends_with_the_process_that_wanted_it() -> None:
    program = (
        "import psutil, time\n"
        "from manta.elastic.worker.preload import preloaded\n"
        "with preloaded({'CPU': 1}, None):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": preload.ROOT}
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert owner.stdout is not None
    found = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    owner.wait()
    found.wait(timeout=300)


def test_workers_of_this_machine_are_copies_and_those_with_gpus_are_not(ray_local: None) -> None:
    """Also when they have other environments than the process that is copied."""
    (here,) = nodes.alive()
    for resources, copied in (({"CPU": 2}, True), ({"CPU": 1, "GPU": 1}, False)):
        worker = open_worker(here, runtime_env_of(resources), resources)
        parent, threads = ray.get(
            [
                worker.execute.remote(os.getppid),
                worker.execute.remote(os.getenv, "OMP_NUM_THREADS"),
            ]
        )
        ray.kill(worker)
        assert is_copied_from(parent) == copied
        assert threads == str(resources["CPU"])


def is_copied_from(parent: int) -> bool:
    return "preload_server" in " ".join(psutil.Process(parent).cmdline())


def test_all_workers_of_a_ray_that_was_started_here_are_copies(ray_local: None) -> None:
    """Not only those that train: a run's mailbox and keepers, a sweep's conductor and legs."""
    asking = ray.remote(num_cpus=0)(lambda: os.getppid())
    assert is_copied_from(ray.get(asking.remote()))


def test_a_driver_with_another_package_starts_its_workers_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(preload.VARIABLE, os.pathsep.join(["/tmp/socket", preload.ROOT]))
    assert str(preload.python()).endswith("/tmp/socket")
    monkeypatch.setenv(preload.VARIABLE, os.pathsep.join(["/tmp/socket", "/elsewhere"]))
    assert preload.python() is None

"""Commands and drivers as processes of their own that begin with their imports done.

They are forked by the server that forks ranks (`plain_runs`), which has imported Torch,
Transformers and the engine, but neither Ray nor W&B: those read the environment when imported.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO

import plain_runs


class Copied:
    """A running copy, to be handled as `subprocess.Popen` is.

    Attributes:
        stdin: what it reads, if it was started with `reads`.
        stdout: what it writes.
    """

    def __init__(self, process: BaseProcess, stdin: IO[str] | None, stdout: IO[str]):
        self._process, self.stdin, self.stdout = process, stdin, stdout

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status once it has ended; of a signal the negative number."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it still writes, once it has ended; one that takes longer is killed."""
        watch = threading.Timer(timeout or threading.TIMEOUT_MAX, self.kill)
        watch.daemon = True
        watch.start()
        if self.stdin is not None:
            self.stdin.close()
        output = self.stdout.read()
        self.wait()
        watch.cancel()
        return output, None


def start(
    function: Callable[..., object],
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    reads: bool = False,
    stderr: IO[str] | None = None,
) -> Copied:
    """Start a copy that calls `function` with `arguments` in a session of its own.

    Args:
        function: of a module that can be imported.
        environment: in the place of this process's.
        reads: whether it has a pipe as its input, else none.
        stderr: where its errors go, else to its output.
    """
    plain_runs.have_fork_server()
    ours, output = os.pipe()
    source, its = os.pipe() if reads else (os.open(os.devnull, os.O_RDONLY), None)
    errors = os.dup(output if stderr is None else stderr.fileno())
    ends = [Connection(source, writable=False), *(Connection(fd) for fd in (output, errors))]
    variables = dict(os.environ if environment is None else environment)
    process = multiprocessing.get_context("forkserver").Process(
        target=_begin,
        args=(function, arguments, variables, Path.cwd(), ends),
        daemon=True,  # none outlives the tests
    )
    process.start()
    for end in ends:
        end.close()
    return Copied(process, None if its is None else os.fdopen(its, "w"), os.fdopen(ours))


def execute(program: str) -> None:
    """Run the text of a program, as `python -c` does."""
    exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


def _begin(
    function: Callable[..., object],
    arguments: tuple[str, ...],
    environment: Mapping[str, str],
    folder: Path,
    ends: list[Connection],
) -> None:
    """Make this process what a Python with such an environment would be, and call `function`."""
    os.setsid()
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    try:
        function(*arguments)
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out
        sys.stdout.flush()

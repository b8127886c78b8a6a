"""The `manta` command as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import IO

import copied


def manta(*arguments: str) -> subprocess.Popen[str]:
    """Start the command, its output on a pipe, in a session that signals can be sent to."""
    return subprocess.Popen(
        [sys.executable, "-m", "manta.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def copy_of_manta(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    address: str | None = None,
    stderr: IO[str] | None = None,
) -> copied.Copied:
    """Start the command as `manta` does, but with its imports done.

    Its errors go to `stderr` if there is one, else to its output.

    With an `address` its process has connected itself to that Ray before. A command that connects
    itself sends the package along, for nodes that have none, and its workers import all of that
    (tests/e2e/test_jobs.py).
    """
    before = [] if address is None else [address]
    function = _run if address is None else _run_connected
    return copied.start(function, *before, *arguments, environment=environment, stderr=stderr)


def noting(names: str, *arguments: str) -> None:
    """Run the command; print at its end which of some modules it has imported.

    Args:
        names: of the modules, with spaces between them.
        arguments: of the command.
    """
    try:
        _run(*arguments)
    finally:
        print([name for name in names.split() if name in sys.modules])


def _run(*arguments: str) -> None:
    sys.argv = ["manta", *arguments]
    from manta.cli import main

    main()


def _run_connected(address: str, *arguments: str) -> None:
    import ray

    ray.init(address, log_to_driver=False)
    _run(*arguments, "--address", address)

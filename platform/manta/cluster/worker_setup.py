"""The script by which a Ray that Manta starts begins each worker, in place of Ray's own.

Ray's own script imports all of Ray only to set some variables and to exec the worker, which imports
Ray again. This script imports a few modules of the standard library only. Where a preload server
runs (`elastic/worker/preload`), it asks for a fork of that process to be the worker, and ends when
the fork does.

Ray runs it as `worker_setup.py PROGRAM ARGUMENT... --language=PYTHON`. On a Ray that Manta did not
start it is the Python of a worker: `worker_setup.py SOCKET PROGRAM ARGUMENT...`.
tests/cluster/test_worker_setup.py guards the arguments of Ray 2.60, and that both scripts do the
same.
"""

import json
import os
import shlex
import socket
import sys

# Variable with the preload server's socket, and the folder that the server imported Manta from.
VARIABLE = "MANTA_PRELOADED"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LANGUAGE = "--language="
CONTEXT = "--serialized-runtime-env-context="
# Name of Ray's own script, in the folder of the worker's program.
RAYS = "setup_worker.py"


def main() -> None:
    """Become the worker, or have a fork of the preload server be the worker."""
    given = sys.argv[1:]
    if any(word.startswith(LANGUAGE) for word in given):
        _as_ray_asks(given)
    else:
        _be(given[1:], given[0])


def _as_ray_asks(given: list[str]) -> None:
    said = [word for word in given if word.startswith((LANGUAGE, CONTEXT))]
    arguments = [word for word in given if word not in said]
    context = [word.removeprefix(CONTEXT) for word in said if word.startswith(CONTEXT)]
    known = json.loads(context[-1]) if context else {}
    if LANGUAGE + "PYTHON" not in said or not _is_plain(known):
        script = os.path.join(os.path.dirname(arguments[0]), RAYS)
        os.execv(sys.executable, [sys.executable, script, *given])
    os.environ.update(known.get("env_vars") or {})
    _be(arguments, _socket())


def _is_plain(context: dict) -> bool:  # type: ignore[type-arg]
    """Whether a runtime environment only sets variables, and needs no other Python."""
    more = ("command_prefix", "override_worker_entrypoint", "java_jars")
    python = context.get("py_executable") or sys.executable
    ours = python == sys.executable or os.path.abspath(__file__) in shlex.split(python)
    values = (context.get("env_vars") or {}).values()
    return ours and not any(context.get(key) for key in more) and not any("$" in v for v in values)


def _socket() -> str:
    """Socket of the preload server with this very package; empty if there is none."""
    path, root, *_ = [*os.environ.get(VARIABLE, "").split(os.pathsep), ""]
    return path if root == ROOT else ""


def _be(arguments: list[str], path: str) -> None:
    """Have a fork of the server at `path` run the program; run it here if no server answers."""
    if path:
        wanted = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        message = json.dumps(wanted).encode()
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                socket.send_fds(connection, [len(message).to_bytes(8, "big")], [0, 1, 2])
                connection.sendall(message)
                if connection.recv(1):
                    connection.recv(1)  # returns at EOF: the fork has ended
                    return
        except OSError:
            pass
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()

"""What Ray runs first for each worker of a Ray that Manta starts, in place of Ray's own script.

Ray's imports all of Ray only to set some variables and to become the worker, which imports Ray
once more. This one imports nothing but a little of Python's own. Where there is a process to be
copied (`elastic/worker/preload`) it has a copy be the worker, and ends with it.

Run as Ray runs it, `worker_setup.py PROGRAM ARGUMENT... --language=PYTHON`, or, as the Python of
a worker on a Ray that somebody else has started, as `worker_setup.py SOCKET PROGRAM ARGUMENT...`.
What it is given by Ray 2.60, and that it does the same, is guarded by
tests/cluster/test_worker_setup.py.
"""

import json
import os
import shlex
import socket
import sys

# Where the process to be copied listens, and from where it has the package.
VARIABLE = "MANTA_PRELOADED"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LANGUAGE = "--language="
CONTEXT = "--serialized-runtime-env-context="
# Ray's own script, which lies beside the program of a worker.
RAYS = "setup_worker.py"


def main() -> None:
    """Be the worker, or have a copy be it."""
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
    """Whether a runtime environment asks for nothing but variables, and for no other Python."""
    more = ("command_prefix", "override_worker_entrypoint", "java_jars")
    python = context.get("py_executable") or sys.executable
    ours = python == sys.executable or os.path.abspath(__file__) in shlex.split(python)
    values = (context.get("env_vars") or {}).values()
    return ours and not any(context.get(key) for key in more) and not any("$" in v for v in values)


def _socket() -> str:
    """Where a process to be copied listens that has this package; empty if there is none."""
    path, root, *_ = [*os.environ.get(VARIABLE, "").split(os.pathsep), ""]
    return path if root == ROOT else ""


def _be(arguments: list[str], path: str) -> None:
    """Have the program run by a copy, and end when it does; run it here if nobody answers."""
    if path:
        order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        message = json.dumps(order).encode()
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                socket.send_fds(connection, [len(message).to_bytes(8, "big")], [0, 1, 2])
                connection.sendall(message)
                if connection.recv(1):
                    connection.recv(1)  # nothing ever comes but the end
                    return
        except OSError:
            pass
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()

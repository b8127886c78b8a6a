"""The preload server: imports what workers need and forks itself for each; see `preload`.

Run as a script with a listening socket's descriptor and optionally a model's type. EOF on standard
input tells it that its parent has ended: it then removes the socket's folder and ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

# What takes long of what a worker imports, and knows no Ray; the rest is what Ray imports itself.
OF_RAY = (
    "pandas",
    "pyarrow.parquet",
    "requests",
    "jsonschema",
    "fsspec",
    "google.protobuf.json_format",
)
MODULES = (*OF_RAY, "manta.train.loop")


@dataclass(frozen=True)
class CopyRequest:
    """A request of `cluster/worker_setup` to run a program in a fork.

    Attributes:
        arguments: the program's arguments; the first is its file.
        environment: the program's environment variables.
        folder: the program's working directory.
        streams: descriptors of the program's standard streams.
        asked_by: socket on which to report that the program runs; closed when the process ends.
    """

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]
    asked_by: socket.socket


def main(descriptor: int, model_type: str | None) -> None:
    """Serve requests; in a fork, run the requested program."""
    # Ignore Ctrl-C, which is for the driver, and SIGCHLD, because nobody waits for the forks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(fileno=descriptor)
    _preload(model_type)
    order = _serve(listener)
    if order is not None:
        _be(order)
    else:
        _remove(listener.getsockname())


def _remove(path: str) -> None:
    """Remove the socket and its folder: the parent has ended, and may have been killed."""
    with suppress(OSError):
        os.unlink(path)
        os.rmdir(os.path.dirname(path))


def _serve(listener: socket.socket) -> CopyRequest | None:
    """Fork for each request; returns the request in a fork, and None in the server at EOF."""
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        with suppress(OSError, ValueError):  # the requester has ended, or fork failed
            order = _received(connection)
            if os.fork() == 0:
                listener.close()
                return order
            for stream in order.streams:
                os.close(stream)
        connection.close()
    return None


def _preload(model_type: str | None) -> None:
    gc.disable()
    for name in MODULES:
        importlib.import_module(name)
    if model_type is not None:
        with suppress(ImportError):
            importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    assert "ray" not in sys.modules, (
        "Ray must be loaded in the forks, because it reads their environment"
    )
    # Freeze what is loaded: a GC pass in a fork writes to these pages and un-shares them.
    gc.freeze()
    gc.enable()


def _received(connection: socket.socket) -> CopyRequest:
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        sent = json.loads(file.read(int.from_bytes(length, "big")))
    return CopyRequest(**sent, streams=streams, asked_by=connection)


def _be(order: CopyRequest) -> None:
    """Run the program in this process, as if it had been started as one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Own process group, because Ray kills the rest of a worker's group when the worker has died.
    # But no own session, so that the kernel ends a stopped fork once its process group is orphaned.
    os.setpgid(0, 0)
    for number, stream in enumerate(order.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.folder)
    sys.argv = order.arguments
    np.random.seed()  # else all forks would draw the same numbers; Python's random reseeds itself
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [os.path.dirname(sys.argv[0]), *(p for p in more if p and p not in sys.path)]
    order.asked_by.sendall(b"1")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)

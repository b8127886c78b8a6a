"""The process that imports what workers need and forks a copy of itself for each; see `preload`.

Run as a script with a listening socket's descriptor and, maybe, a model's type. Ends when its
standard input does: then whoever started it is gone, and it takes the socket's folder along.
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
    """A program to run: what `cluster/worker_setup` sends.

    Attributes:
        arguments: it is started with; the first is its file.
        environment: it is started with.
        folder: it works in.
        streams: descriptors of its standard streams.
        asked_by: to be told that it runs; closed by the end of this process.
    """

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]
    asked_by: socket.socket


def main(descriptor: int, model_type: str | None) -> None:
    """Serve; in a copy, be the program that was asked for."""
    # The driver's Ctrl-C is the driver's, and nobody waits for the copies.
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
    """Remove the socket and its folder: who made them is gone, and may have been killed."""
    with suppress(OSError):
        os.unlink(path)
        os.rmdir(os.path.dirname(path))


def _serve(listener: socket.socket) -> CopyRequest | None:
    """Fork for each that asks; returns what a copy is to be, or nothing once nobody may ask."""
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        with suppress(OSError, ValueError):  # who asked has gone, or there is no room for a copy
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
    assert "ray" not in sys.modules, "Ray must be loaded in the copies: it reads their environment"
    # What is there stays, and a look at it would copy its memory in each of the copies.
    gc.freeze()
    gc.enable()


def _received(connection: socket.socket) -> CopyRequest:
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        sent = json.loads(file.read(int.from_bytes(length, "big")))
    return CopyRequest(**sent, streams=streams, asked_by=connection)


def _be(order: CopyRequest) -> None:
    """Run the program in this process as if it had been started for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A group of its own: Ray ends what is left of a worker's when the worker is gone. No session of
    # its own: then the kernel would not end a copy that is stopped when all others are gone.
    os.setpgid(0, 0)
    for number, stream in enumerate(order.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.folder)
    sys.argv = order.arguments
    np.random.seed()  # all copies would draw the same; Python's own random sees to it itself
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [os.path.dirname(sys.argv[0]), *(p for p in more if p and p not in sys.path)]
    order.asked_by.sendall(b"1")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)

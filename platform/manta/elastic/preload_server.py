"""The process that imports what workers need and forks a copy of itself for each; see `preload`.

Run as a script with a listening socket's descriptor and, maybe, a model's type. Ends when its
standard input does: then whoever started it is gone.
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
from typing import Any

# What takes long of what a worker imports, and knows no Ray: pandas is for Ray's own libraries.
MODULES = ("pandas", "pyarrow.parquet", "manta.train.loop")


def main(descriptor: int, model_type: str | None) -> None:
    """Serve; in a copy, be the program that was asked for."""
    # The driver's Ctrl-C is the driver's, and nobody waits for the copies.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(fileno=descriptor)
    _preload(model_type)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        with suppress(OSError, ValueError):  # who asked has gone
            order, streams = _received(connection)
            if os.fork() == 0:
                listener.close()
                _be(order, streams, connection)
                return
            for stream in streams:
                os.close(stream)
        connection.close()


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


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What `preload_client` sends: the program, and its standard streams."""
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        return json.loads(file.read(int.from_bytes(length, "big"))), streams


def _be(order: dict[str, Any], streams: list[int], connection: socket.socket) -> None:
    """Run the program in this process as if it had been started for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # Ray ends what is left of a worker's process group when the worker is gone
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = order["arguments"]
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [os.path.dirname(sys.argv[0]), *(p for p in more if p and p not in sys.path)]
    connection.sendall(b"1")  # it is closed by the end of this process
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)

"""What Ray runs as the Python of a worker: a copy of `preload_server` does the work.

Run as `preload_client.py SOCKET PROGRAM ARGUMENT...`. Imports nothing but a little of Python's
own: it is started for each worker.
"""

import json
import os
import socket
import sys


def main() -> None:
    """Have the program run by a copy, and end when it does; run it here if nobody answers."""
    path, *arguments = sys.argv[1:]
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

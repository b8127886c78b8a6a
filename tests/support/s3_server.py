"""An S3 server on this machine, in a process of its own, that can be stopped and come back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from manta.storage.place import tree
from manta.storage.store import StorePath

BUCKET = "bucket"
DEADLINE = 120.0
# The server takes anybody in; the client insists on having credentials.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """moto's server, which keeps its objects in memory, with one bucket in it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT},
        )
        self._make_bucket()

    def url(self, path: str, *, timeout: float | None = None) -> str:
        """The URL of a place in the bucket; a request fails after `timeout` seconds."""
        options = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        if timeout is not None:
            options += f"&request_timeout={timeout}"
        return f"s3://{BUCKET}/{path}?{options}"

    def pause(self) -> None:
        """From now on nobody gets an answer."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _make_bucket(self) -> None:
        deadline = time.time() + DEADLINE
        while True:
            asked = urllib.request.Request(
                f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT", data=b""
            )
            try:
                with urllib.request.urlopen(asked, timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                assert self._process.poll() is None, "the S3 server has ended"
                assert time.time() < deadline, "the S3 server doesn't answer"
                time.sleep(0.05)


def upload(folder: Path, place: StorePath) -> None:
    """Copy a folder into a store."""
    for name in tree(folder):
        (place / name).write_bytes((folder / name).read_bytes())

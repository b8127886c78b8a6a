"""A stand-in for the clouds' instance metadata services: EC2's with tokens, Compute Engine's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Metadata(ThreadingHTTPServer):
    """What it announces, and what it was asked.

    Attributes:
        url: where it is.
        asked: the paths, in order.
        token: what EC2 asks must bear; a new one makes the old ones expire.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.token = "first"
        self.ends: datetime | None = None

    def announce(self, seconds: float) -> None:
        """The instance ends in so many seconds."""
        self.ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)


class _Handler(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        if (
            self.path == "/latest/api/token"
            and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        ):
            self._answer(200, self.server.token)
        else:
            self._answer(400)

    def do_GET(self) -> None:
        ends = self.server.ends
        if self.path == "/computeMetadata/v1/instance/preempted":
            flavoured = self.headers["Metadata-Flavor"] == "Google"
            self._answer(200 if flavoured else 403, "TRUE" if ends else "FALSE")
        elif self.headers["X-aws-ec2-metadata-token"] != self.server.token:
            self._answer(401)
        elif self.path != "/latest/meta-data/spot/instance-action" or ends is None:
            self._answer(404)
        else:
            time = ends.strftime("%Y-%m-%dT%H:%M:%SZ")
            self._answer(200, json.dumps({"action": "terminate", "time": time}))

    def _answer(self, status: int, text: str = "") -> None:
        self.server.asked.append(f"{self.command} {self.path} {status}")
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


@contextmanager
def metadata_service() -> Iterator[Metadata]:
    """A metadata service that announces nothing yet."""
    service = Metadata()
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        thread.join()
        service.server_close()

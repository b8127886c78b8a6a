"""What the tests of `manta.track` share: a config, a corpus, a clock, a W&B server."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from manta.config import RunConfig
from manta.corpus.manifest import Manifest

API_KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests: no key, no settings, no server of theirs is found."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    # W&B's own telemetry would look for a server elsewhere.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Builds a config with the sections given as keyword arguments; W&B is off."""

    def make(**sections: Any) -> RunConfig:
        data: dict[str, Any] = {
            "run": {"name": "one", "storage": str(tmp_path / "runs")},
            "corpus": "corpora/test",
            "model": {"type": "gpt2", "sizes": {"n_layer": 2}},
            "train": {"seq_len": 10},
            "schedule": {"horizon": 1000, "lr": 0.1, "batch": 1},
            "wandb": {"mode": "disabled"},
        }
        for name, section in sections.items():
            merge = isinstance(section, dict) and isinstance(data.get(name), dict)
            data[name] = {**data[name], **section} if merge else section
        return RunConfig.model_validate(data)

    return make


def make_manifest(vocab_size: int = 300) -> Manifest:
    """A manifest of an empty corpus; another `vocab_size` is another fingerprint."""
    return Manifest(
        manta_version="0",
        token_dtype="uint16",
        vocab_size=vocab_size,
        eos_id=0,
        tokenizer_file="tokenizer.json",
        tokenizer_sha256="",
        config={},
        counts={},
        dropped={},
        shards=[],
    ).sealed()


@pytest.fixture
def manifest() -> Manifest:
    return make_manifest()


@pytest.fixture
def other_manifest() -> Manifest:
    return make_manifest(301)


@pytest.fixture
def training_row() -> Callable[[int], dict[str, Any]]:
    """The row of a step, a pure function of it, with 10 tokens a step."""
    return row_of


def row_of(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": step * 10,
        "loss": 5.0 / step,
        "lr": 1e-3 / step,
        "batch_size": 1,
        "grad_norm": 0.1 * step,
        "tokens_per_s": 1000.0 + step,
        "world_size": 2,
        "epoch": 0,
    }


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class WandbServer:
    """As much of W&B's server as its client needs: runs, their config, history, summary."""

    def __init__(self) -> None:
        self.configs: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, dict[str, dict[int, str]]] = {}
        self.ended: dict[str, int] = {}
        self.opened: list[str] = []
        self.keys: set[str] = set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None: ...

            def do_POST(self) -> None:
                server.keys.add(self.headers.get("Authorization", ""))
                body = self._body()
                if self.path == "/graphql":
                    asked = json.loads(body)
                    answer = server.answer(asked["operationName"], asked["variables"])
                    self._send({"data": answer})
                    return
                if self.path.startswith("/files/"):
                    server.take(self.path.split("/")[4], json.loads(body))
                self._send({})

            def do_PUT(self) -> None:
                self._body()
                self._send({})

            def _body(self) -> bytes:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                packed = self.headers.get("Content-Encoding") == "gzip"
                return gzip.decompress(body) if packed else body

            def _send(self, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """From now on the port is closed."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        if operation == "Viewer":
            return {"viewer": {"id": "u", "entity": "team", "username": "u", "flags": "{}"}}
        if operation == "RunResumeStatus":
            known = asked["name"] in self.configs
            return {"model": {**PROJECT, "bucket": self._resume(asked["name"]) if known else None}}
        if operation == "UpsertBucket":
            return {"upsertBucket": self._upsert(asked)}
        if operation == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{self.url}/put/{f}"} for f in asked["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def _upsert(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["name"]
        new = name not in self.configs
        if asked.get("config"):
            self.configs[name] = json.loads(asked["config"])
        if asked.get("displayName"):
            self.opened.append(name)
        bucket = {
            "id": f"id-{name}",
            "name": name,
            "displayName": asked.get("displayName"),
            "config": asked.get("config"),
            "project": {**PROJECT, "name": asked["project"]},
            "historyLineCount": 0,
        }
        return {"bucket": bucket, "inserted": new}

    def _resume(self, name: str) -> dict[str, Any]:
        history = self._content(name, "wandb-history.jsonl")
        summary = self._content(name, "wandb-summary.json")
        return {
            "id": f"id-{name}",
            "name": name,
            "displayName": name,
            "summaryMetrics": summary[-1] if summary else "{}",
            "logLineCount": 0,
            "historyLineCount": len(history),
            "eventsLineCount": 0,
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": "[]",
            "config": json.dumps(self.configs[name]),
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }

    def take(self, name: str, sent: dict[str, Any]) -> None:
        """A piece of the file stream: lines of a file from an offset on."""
        for file, piece in (sent.get("files") or {}).items():
            lines = self.lines.setdefault(name, {}).setdefault(file, {})
            lines.update(enumerate(piece["content"], piece["offset"]))
        if sent.get("complete"):
            self.ended[name] = sent["exitcode"]

    def _content(self, name: str, file: str) -> list[str]:
        lines = self.lines.get(name, {}).get(file, {})
        return [line for _, line in sorted(lines.items())]

    def history(self, name: str) -> list[dict[str, Any]]:
        """The rows of a run without what the client adds."""
        rows = [json.loads(line) for line in self._content(name, "wandb-history.jsonl")]
        added = ("_timestamp", "_runtime")
        return [{k: v for k, v in row.items() if k not in added} for row in rows]

    def summary(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self._content(name, "wandb-summary.json")[-1]))

    def config(self, name: str) -> dict[str, Any]:
        return {k: v["value"] for k, v in self.configs[name].items() if k != "_wandb"}


PROJECT = {"id": "p", "name": "manta", "entity": {"id": "e", "name": "team"}}


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A W&B server on this machine, for which there is a key."""
    server = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    yield server
    server.close()


@pytest.fixture
def api_key() -> str:
    return API_KEY

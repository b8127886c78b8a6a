"""As much of W&B's server as its client needs, on this machine, for tests to read back."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API_KEY = "0123456789abcdef0123456789abcdef01234567"


class WandbServer:
    """As much of W&B's server as its client needs: runs, their config, history, summary, files.

    Attributes:
        runs: by id, what was said of each: its group, tags, job type, display name.
        files: uploaded, by ``ID/path`` of a run's and ``artifacts/NAME/path`` of an artifact's.
        artifacts: by name, whether each is whole.
        alerts: title, text and level of each alert, by the name of the run.
        opened: the ids of runs, each time that one was opened.
        ended: exit codes by id.
    """

    def __init__(self) -> None:
        self.configs: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, dict[str, dict[int, str]]] = {}
        self.ended: dict[str, int] = {}
        self.opened: list[str] = []
        self.keys: set[str] = set()
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.artifacts: dict[str, str] = {}
        self.alerts: dict[str, list[tuple[str, str, str]]] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None: ...

            def do_POST(self) -> None:
                server.keys.add(self.headers.get("Authorization", ""))
                body = self._body()
                if self.path == "/graphql":
                    asked = json.loads(body)
                    name = asked["operationName"] or asked["query"].split("(")[0].split()[-1]
                    answer = server.answer(name, asked.get("variables") or {})
                    self._send({"data": answer})
                    return
                if self.path.startswith("/files/"):
                    server.take(self.path.split("/")[4], json.loads(body))
                self._send({})

            def do_PUT(self) -> None:
                server.files[self.path.removeprefix("/put/")] = self._body()
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

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                # A client that is done hangs up.
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client_address)

        self._http = Server(("127.0.0.1", 0), Handler)
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
            upload = f"{self.url}/put/{asked['run']}"
            files = [{"name": f, "uploadUrl": f"{upload}/{f}"} for f in asked["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if operation == "ProjectInternalId":
            return {"project": {"id": "p", "internalId": "1"}}
        if operation == "GetProjects":
            return {"models": {"edges": [], "pageInfo": {"endCursor": None, "hasNextPage": False}}}
        if operation == "upsertView":
            return {"upsertView": {"view": self._view(asked), "inserted": True}}
        if operation == "SpecificReport":
            return {"view": self.reports[asked["reportId"]]}
        if operation == "NotifyScriptableRunAlert":
            told = (asked["title"], asked["text"], asked["severity"])
            self.alerts.setdefault(asked["runName"], []).append(told)
            return {"notifyScriptableRunAlert": {"success": True}}
        if "rtifact" in operation:
            return self._artifact(operation, asked)
        return {"project": None}

    def _view(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A report, new or changed."""
        name = asked["id"] or f"report{len(self.reports):02}"  # as base64 takes it
        project = {"id": "p", "name": asked["projectName"], "entityName": asked["entityName"]}
        keys = ("name", "displayName", "description", "spec", "type")
        self.reports[name] = {**{k: asked[k] for k in keys}, "id": name, "project": project}
        return self.reports[name]

    def _artifact(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Tables are artifacts beside being files: all that is kept of one is that it is whole."""
        if operation == "CreateArtifact":
            name = asked["input"]["artifactCollectionName"]
            self.artifacts[name] = "PENDING"
            sequence = {"latestArtifact": None}
            made = {"id": name, "state": "PENDING", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": made}}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            upload = f"{self.url}/put/manifests/{asked.get('artifactID', 'updated')}"
            file = {"id": "f", "uploadUrl": upload, "uploadHeaders": []}
            key = operation[0].lower() + operation[1:]
            return {key: {"artifactManifest": {"id": "m", "file": file}}}
        if operation == "CreateArtifactFiles":
            nodes = [
                {
                    "storagePath": one["name"],
                    "uploadUrl": f"{self.url}/put/artifacts/{one['artifactID']}/{one['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": one["artifactID"]},
                }
                for one in asked["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": [{"node": n} for n in nodes]}}}
        if operation == "CommitArtifact":
            self.artifacts[asked["artifactID"]] = "COMMITTED"
            return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "d"}}}
        return {"project": None}

    def _upsert(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["name"]
        new = name not in self.configs
        self.runs.setdefault(name, {}).update({k: v for k, v in asked.items() if v is not None})
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

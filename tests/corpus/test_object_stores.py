"""s3:// and hf:// against servers of our own on this machine."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from manta.config.corpus import SourceSection
from manta.config.errors import CorpusError
from manta.corpus.readers import read
from manta.corpus.sources import resolve

LINES = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(50)).encode()
OBJECTS = {"corpus/a.jsonl": LINES, "corpus/deep/b.jsonl": b"{}\n", "corpus/_SUCCESS": b""}


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class Silent(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        length = headers.pop("length", str(len(body)))
        for name, value in {"Content-Length": length, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def content(self, body: bytes, **headers: str) -> None:
        """All of `body`, or the range asked for."""
        asked = self.headers.get("Range")
        if self.command == "HEAD" or not asked:
            self.answer(200, body, length=str(len(body)), Accept_Ranges="bytes", **headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(body)), len(body) - 1) + 1
        place = f"bytes {start}-{stop - 1}/{len(body)}"
        self.answer(206, body[start:stop], Content_Range=place, **headers)


class S3(Silent):
    """One bucket: the three requests that reading takes."""

    requests = 0

    def do_GET(self) -> None:
        S3.requests += 1
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        if bucket != "bucket":
            self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif not key and "list-type" in url.query:
            self.answer(200, self.listing(parse_qs(url.query)), Content_Type="application/xml")
        elif key in OBJECTS:
            modified = "Wed, 01 Jan 2025 00:00:00 GMT"
            self.content(OBJECTS[key], ETag='"tag"', Last_Modified=modified)
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET

    def listing(self, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys, folders = [], set()
        for key in OBJECTS:
            below = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in below:
                folders.add(prefix + below.split(delimiter)[0] + delimiter)
            else:
                keys.append(key)
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(OBJECTS[key])}</Size><ETag>tag</ETag>"
            "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys
        ) + "".join(f"<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>" for f in folders)
        return (
            f"<ListBucketResult><Name>bucket</Name><Prefix>{prefix}</Prefix><KeyCount>"
            f"{len(keys) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
            f"{entries}</ListBucketResult>"
        ).encode()


@pytest.mark.parametrize("pattern", ["corpus", "corpus/**/*.jsonl", "corpus/a.jsonl"])
def test_s3(monkeypatch, pattern):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with serving(S3) as port:
        options = f"?scheme=http&endpoint_override=127.0.0.1:{port}&region=eu-west-1"
        section = SourceSection(name="s", format="jsonl", paths=[f"s3://bucket/{pattern}{options}"])
        first, *others = resolve([section])

        assert first.shown == "s3://bucket/corpus/a.jsonl"
        assert first.size == len(LINES)
        assert [file.shown for file in others] == (
            [] if pattern.endswith("a.jsonl") else ["s3://bucket/corpus/deep/b.jsonl"]
        )
        S3.requests = 0
        assert list(read(first, "jsonl", "text", 0, None)) == [f"text {i}" for i in range(50)]
        assert S3.requests <= 3  # and not one for each line or byte
        middle = list(read(first, "jsonl", "text", 100, 200))
        assert middle == [f"text {i}" for i in range(6, 11)]


def test_a_bucket_that_is_not_there(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with serving(S3) as port:
        options = f"?scheme=http&endpoint_override=127.0.0.1:{port}&region=eu-west-1"
        section = SourceSection(name="s", format="jsonl", paths=[f"s3://other/x{options}"])

        with pytest.raises(CorpusError, match="s3://other/x"):
            resolve([section])


def test_a_password_in_a_url_is_refused_and_not_repeated():
    section = SourceSection(name="s", format="jsonl", paths=["s3://key:secret@bucket/x"])

    with pytest.raises(CorpusError, match="password or key in a URL") as caught:
        resolve([section])

    assert "secret" not in str(caught.value)


class Hub(Silent):
    """One dataset repository with one file."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        entry = {"type": "file", "oid": "b" * 40, "size": len(LINES), "path": "a.jsonl"}
        if "/resolve/" in path:
            self.content(LINES, ETag='"tag"')
        elif "/tree/" in path:
            self.answer(200, json.dumps([entry]).encode())
        else:
            self.answer(200, json.dumps({"id": "u/d", "sha": "a" * 40, "siblings": []}).encode())


def test_hugging_face_datasets():
    # The Hub's address is read when its client is imported: this needs a process of its own.
    script = (
        "from manta.config.corpus import SourceSection\n"
        "from manta.corpus.readers import read\n"
        "from manta.corpus.sources import resolve\n"
        "paths = ['hf://datasets/u/d/*.jsonl']\n"
        "(file,) = resolve([SourceSection(name='s', format='jsonl', paths=paths)])\n"
        "print(file.shown, *list(read(file, 'jsonl', 'text', 0, None))[:2], sep=', ')\n"
    )
    with serving(Hub) as port:
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )

    assert done.stdout == "hf://datasets/u/d/a.jsonl, text 0, text 1\n", done.stderr

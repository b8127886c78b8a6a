"""What `manta doctor` says of storage, corpus and W&B, as seen from where it runs."""

from __future__ import annotations

import threading

import pytest
from cluster_files import AWS, found, gpu_run
from moto.server import ThreadedMotoServer

from manta.cluster import check_access
from manta.cluster.findings import CheckResult

pytestmark = pytest.mark.usefixtures("laptop")


def stored(storage, *overrides):
    return gpu_run(f"run.storage={storage}", "corpus=/mnt/share/corpora/one", *overrides)


@pytest.fixture
def bucket(monkeypatch):
    """An S3 server with one bucket."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="there")
    yield boto3.resource("s3").Bucket("there")
    server.stop()


def test_storage_that_can_be_written_to(bucket):
    sound = found(AWS, CheckResult.OK, stored("s3://there/runs"))
    assert ("storage", "s3://there/runs: writable from here") in sound
    assert not [item.key for item in bucket.objects.all() if "probe" in item.key]


def test_storage_that_can_not(bucket):
    failed = found(AWS, CheckResult.FAILED, stored("s3://nowhere/runs"))
    ((check, what),) = failed
    assert check == "storage"
    assert "run.storage = 's3://nowhere/runs': can't be written to: there is no such bucket" in what


def test_storage_that_is_silent(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(check_access, "check_writable", lambda place, key: released.wait())
    monkeypatch.setattr(check_access, "PROBE_SECONDS", 0.05)
    try:
        failed = found(AWS, CheckResult.FAILED, stored("s3://there/runs"))
    finally:
        released.set()
    assert any("no answer in" in what for _, what in failed)


def test_storage_of_one_node():
    failed = found(AWS, CheckResult.FAILED, stored("runs"))
    assert any("'runs' is a folder of one node" in what for _, what in failed)


def test_the_corpus(bucket):
    def asked(verdict, corpus):
        run = gpu_run(f"corpus={corpus}", "run.storage=/mnt/share/runs")
        return [what for check, what in found(AWS, verdict, run) if check == "corpus"]

    assert "there is no manifest.json" in asked(CheckResult.FAILED, "s3://there/corpora/one")[0]
    bucket.put_object(Key="corpora/one/manifest.json", Body=b"{}")
    assert asked(CheckResult.OK, "s3://there/corpora/one") == [
        "s3://there/corpora/one: readable from here"
    ]
    assert "'corpora/demo' is a folder of one node" in asked(CheckResult.FAILED, "corpora/demo")[0]
    assert "can't be seen from here" in asked(CheckResult.WARNING, "/mnt/share/corpora")[0]


def test_this_machines_own_folders(tmp_path):
    def checks(corpus):
        run = gpu_run(f"corpus={corpus}", f"run.storage={tmp_path}/runs")
        return {f.check: f.verdict for f in check_access.check_data(None, run)}

    assert checks(tmp_path) == {"storage": CheckResult.OK, "corpus": CheckResult.FAILED}
    (tmp_path / "manifest.json").touch()
    assert checks(tmp_path) == {"storage": CheckResult.OK, "corpus": CheckResult.OK}


def test_wandb(monkeypatch):
    def asked(verdict, mode):
        run = stored("/mnt/share/runs", f"wandb.mode={mode}")
        return [what for check, what in found(AWS, verdict, run) if check == "W&B"]

    assert "no API key" in asked(CheckResult.FAILED, "online")[0]
    assert "no API key" in asked(CheckResult.WARNING, "auto")[0]
    assert asked(CheckResult.OK, "offline") == ["offline"]
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    assert "can't be reached" in asked(CheckResult.FAILED, "online")[0]

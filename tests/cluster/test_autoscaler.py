"""Ray's own autoscaler on the config that `ray up cluster.yaml` sends to the head.

A real head with token authentication, AWS a mock: what is asked for is launched as spot, or as the
type that stands in for it, and an announced end drains the node.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mock_aws import Laptop, grant_access, mock_aws
from mock_metadata import metadata_service

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
ASK = """
import sys, ray
from ray.autoscaler.sdk import request_resources
ray.init(address=sys.argv[1], log_to_driver=False)
request_resources(bundles=[{"GPU": 1}] * int(sys.argv[2]))
"""
WHY_DEAD = """
import sys, ray
for node in ray._raylet.GcsClient(address=sys.argv[1]).get_all_node_info().values():
    print(node.state == node.DEAD and node.death_info.reason)
"""
DRAINED = 3  # AUTOSCALER_DRAIN_PREEMPTED


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return found


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Head:
    """A Ray head as cluster.yaml starts it, on this machine, its home being the laptop's."""

    def __init__(self, laptop, aws, folder):
        home = Path(laptop.environment["HOME"])
        (head,) = aws.of_type("head")
        self.address = f"127.0.0.1:{free_port()}"
        self.environment = {
            **laptop.environment,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_CLOUD_INSTANCE_ID": head["InstanceId"],
            "RAY_NODE_TYPE_NAME": "head",
            "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 4, "GPU": 0}),
            "RAY_enable_autoscaler_v2": "1",
        }
        (home / "manta").mkdir()
        shutil.copy(ROOT / "requirements.lock", home / "manta")
        for name in ("cluster", "platform"):
            (home / "manta" / name).mkdir()
        (key,) = (home / ".ssh").iterdir()
        shutil.copy(key, home / "ray_bootstrap_key.pem")
        self._log = (folder / "head.log").open("w")
        self._process = subprocess.Popen(
            [
                *(RAY, "start", "--head", "--block", "--include-dashboard=false"),
                *(f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={folder}"),
                f"--autoscaling-config={laptop.heads_config()}",
            ],
            env=self.environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, code, *words):
        """What a driver on the head prints."""
        done = subprocess.run(
            [sys.executable, "-c", code, self.address, *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self):
        """End it and all that it started."""
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()


@pytest.fixture
def head(tmp_path):
    folder = Path("/tmp") / f"ray{os.getpid()}"  # sockets lie below it, with short paths
    with mock_aws() as aws:
        grant_access(aws, ROOT / "cluster" / "aws-access.yaml", "some-bucket")
        laptop = Laptop(tmp_path, aws, ROOT / "platform")
        subprocess.run(
            [RAY, "up", "-y", "cluster.yaml"],
            cwd=ROOT,
            env=laptop.environment,
            check=True,
            capture_output=True,
            timeout=300,
        )
        folder.mkdir()
        head = Head(laptop, aws, folder)
        head.aws = aws
        try:
            yield head
        finally:
            head.close()
            shutil.rmtree(folder, ignore_errors=True)


def test_spot_then_what_stands_in_for_it_and_a_drain(head):
    aws = head.aws
    wait_for(lambda: head_answers(head))
    head.run(ASK, 1)
    wait_for(lambda: aws.of_type("gpu-spot"))
    assert not aws.of_type("gpu-on-demand")

    aws.spot = False
    head.run(ASK, 2)
    wait_for(lambda: aws.of_type("gpu-on-demand"))
    assert aws.refused
    # Both are counted: it does not go on asking, as often as it looks what there is.
    refused, listed = aws.refused, aws.listed
    wait_for(lambda: aws.listed >= listed + 6)
    assert (len(aws.of_type("gpu-spot")), len(aws.of_type("gpu-on-demand"))) == (1, 1)
    assert aws.refused == refused

    with metadata_service() as metadata:
        metadata.announce(seconds=120)
        notice = [sys.executable, "-m", "manta.cluster.notice", "aws", "--service", metadata.url]
        watch = subprocess.run(
            [*notice, "--address", head.address],
            env=head.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert watch.returncode == 0, watch.stderr
    assert "drained the node" in watch.stderr
    # It has no work, so it ends as soon as it is drained.
    wait_for(lambda: head.run(WHY_DEAD) == str(DRAINED))


def head_answers(head):
    with socket.socket() as one:
        host, _, port = head.address.partition(":")
        return one.connect_ex((host, int(port))) == 0

"""Watch for the cloud's notice that it will end this node, and drain the node in Ray then.

Ray 2.60 doesn't ask for such notices itself. A drained node gets no new work, and Manta saves
and continues without it before the node ends. The cluster files start this watch on each worker:

    python -m manta.cluster.notice aws --address HEAD:6379
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

log = logging.getLogger(__name__)

# Addresses of the clouds' metadata services, the same on every machine.
AWS = "http://169.254.169.254"
GCP = "http://metadata.google.internal"
POLL_SECONDS = 5.0  # as AWS advises; the notice comes 120 s ahead, on GCP 30 s
ANSWER_SECONDS = 2.0
AWS_TOKEN_SECONDS = 21600
GCP_NOTICE_SECONDS = 30.0


@dataclass(frozen=True)
class Notice:
    """A cloud's notice that it will end the node.

    Attributes:
        deadline: time of the shutdown, in seconds since the epoch.
        reason: the cloud's reason, in its own words.
    """

    deadline: float
    reason: str


class AwsNotices:
    """The spot notices of EC2, through version 2 of its instance metadata service."""

    def __init__(self, service: str = AWS) -> None:
        self._service = service
        self._token: str | None = None

    def __call__(self) -> Notice | None:
        """The notice, if there is one.

        Raises:
            OSError: if the service does not answer.
        """
        try:
            return self._look()
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
        self._token = None  # the service answers 401 when the token has expired
        return self._look()

    def _look(self) -> Notice | None:
        if self._token is None:
            life = {"X-aws-ec2-metadata-token-ttl-seconds": str(AWS_TOKEN_SECONDS)}
            self._token = _ask(f"{self._service}/latest/api/token", life, "PUT")
        bearer = {"X-aws-ec2-metadata-token": self._token}
        try:
            text = _ask(f"{self._service}/latest/meta-data/spot/instance-action", bearer)
        except urllib.error.HTTPError as error:
            if error.code == 404:  # the answer when there is no notice
                return None
            raise
        answer = json.loads(text)
        at = datetime.fromisoformat(answer["time"])
        return Notice(at.timestamp(), f"AWS will {answer['action']} this spot instance")


class GcpNotices:
    """The notices of Compute Engine for spot and preemptible machines."""

    def __init__(self, service: str = GCP) -> None:
        self._service = service

    def __call__(self) -> Notice | None:
        """The notice, if there is one.

        Raises:
            OSError: if the service does not answer.
        """
        url = f"{self._service}/computeMetadata/v1/instance/preempted"
        if _ask(url, {"Metadata-Flavor": "Google"}).strip() != "TRUE":
            return None
        return Notice(time.time() + GCP_NOTICE_SECONDS, "GCP preempts this instance")


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        text: str = answer.read().decode()
    return text


def watch(
    look: Callable[[], Notice | None],
    drain: Callable[[Notice], None],
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Poll `look` until there is a notice, then try to drain until that works or time is up."""
    warned = False
    while True:
        try:
            notice = look()
        except (OSError, ValueError, KeyError) as error:
            if not warned:
                log.warning("can't ask the cloud for notices, will keep trying: %s", error)
            notice, warned = None, True
        if notice is not None:
            break
        time.sleep(poll_seconds)
    log.warning("%s in %.0f s", notice.reason, notice.deadline - time.time())
    while True:
        try:
            return drain(notice)
        except Exception as error:  # the node ends anyway, so trying again costs nothing
            log.warning("can't drain this node, will try again: %s", error)
        if time.time() > notice.deadline:
            return None
        time.sleep(min(1.0, poll_seconds))


def drain_this_node(address: str, notice: Notice) -> None:
    """Tell the Ray at `address` that the node of this machine will end.

    Raises:
        RuntimeError: if Ray has no node on this machine, or refuses to drain it.
    """
    import ray
    from ray.core.generated import autoscaler_pb2

    here = ray.util.get_node_ip_address()
    client = ray._raylet.GcsClient(address=address)
    nodes = [
        info.node_id.hex()
        for info in client.get_all_node_info().values()
        if info.node_manager_address == here and info.state == info.ALIVE
    ]
    if not nodes:
        raise RuntimeError(f"the Ray at {address} has no live node at {here}")
    for node in nodes:
        accepted, why = client.drain_node(
            node,
            autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
            notice.reason,
            int(notice.deadline * 1000),
        )
        if not accepted:
            raise RuntimeError(f"Ray refuses to drain {node}: {why}")
        log.warning("drained the node %s", node)


def main(arguments: list[str] | None = None) -> None:
    """Run the watch until the node has been drained."""
    parser = argparse.ArgumentParser(prog="python -m manta.cluster.notice", description=__doc__)
    parser.add_argument("cloud", choices=["aws", "gcp"])
    parser.add_argument(
        "--address", required=True, help="address of the Ray cluster's head, HOST:PORT"
    )
    parser.add_argument("--service", help="URL of another metadata service, for tests")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    look: Callable[[], Notice | None]
    if given.cloud == "aws":
        look = AwsNotices(given.service or AWS)
    else:
        look = GcpNotices(given.service or GCP)
    log.info("watching for notices of %s", given.cloud)
    watch(look, lambda notice: drain_this_node(given.address, notice))


if __name__ == "__main__":
    main()

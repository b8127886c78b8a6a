"""A mock of AWS's API, which can be out of spot capacity, and a laptop that talks to it."""

from __future__ import annotations

import io
import json
import os
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import yaml
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

REGION = "us-west-2"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "mock", "AWS_SECRET_ACCESS_KEY": "mock"}
NO_CAPACITY = b"""<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code>
<Message>There is no Spot capacity available that matches your request.</Message>
</Error></Errors><RequestID>mock</RequestID></Response>"""


@dataclass
class MockAws:
    """Where the mock is, and what it is asked to be short of.

    Attributes:
        url: of the API.
        spot: whether there are spot instances to have.
        refused: how many requests for spot instances were refused.
        listed: how often somebody asked which instances there are.
    """

    url: str = ""
    spot: bool = True
    refused: int = 0
    listed: int = 0
    _api: Any = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """One request to the API."""
        asked = _asked(environ)
        self.listed += asked.get("Action") == "DescribeInstances"
        for_spot = asked.get("InstanceMarketOptions.MarketType") == "spot"
        if self.spot or not (asked.get("Action") == "RunInstances" and for_spot):
            answer: Iterable[bytes] = self._api(environ, start_response)
            return answer
        self.refused += 1
        start_response("500 Internal Server Error", [("Content-Type", "text/xml")])
        return [NO_CAPACITY]

    def client(self, service: str) -> Any:
        """A client of one of its services."""
        return boto3.client(
            service,
            REGION,
            endpoint_url=self.url,
            aws_access_key_id="mock",
            aws_secret_access_key="mock",
        )

    def instances(self) -> list[dict[str, Any]]:
        """All instances that are not terminated, as EC2 describes them, tags as a dict."""
        found = [
            instance
            for page in self.client("ec2").get_paginator("describe_instances").paginate()
            for reservation in page["Reservations"]
            for instance in reservation["Instances"]
            if instance["State"]["Name"] in ("pending", "running", "stopping", "stopped")
        ]
        for instance in found:
            instance["tags"] = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        return found

    def of_type(self, node_type: str) -> list[dict[str, Any]]:
        """Those of one node type of the cluster file."""
        return [i for i in self.instances() if i["tags"]["ray-user-node-type"] == node_type]


def _asked(environ: dict[str, Any]) -> dict[str, str]:
    """The parameters of a request to EC2; its body can be read again."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return dict(urllib.parse.parse_qsl(body.decode(errors="replace")))


class _QuietHandler(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Say nothing of each request."""


@contextmanager
def mock_aws() -> Iterator[MockAws]:
    """A mock of AWS that is empty but for what every account has."""
    aws = MockAws()
    server = make_server("127.0.0.1", 0, aws, threaded=True, request_handler=_QuietHandler)
    aws.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    # What is there is the process's, and so that of earlier mocks too.
    urllib.request.urlopen(f"{aws.url}/moto-api/reset", data=b"").close()
    try:
        yield aws
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Template(yaml.SafeLoader):
    """Reads a CloudFormation template; a reference becomes (function, argument)."""


for _function in ("Ref", "Sub", "GetAtt"):
    _Template.add_constructor(
        f"!{_function}",
        lambda loader, node, function=_function: (function, loader.construct_scalar(node)),
    )


def grant_access(aws: MockAws, template: Path, bucket: str) -> None:
    """Make what the template of the nodes' rights says, which this mock can't run itself."""
    resources = _Template(template.read_text()).get_single_data()["Resources"]
    iam, made = aws.client("iam"), {"Cluster": "manta"}

    def value(given: Any) -> Any:
        if isinstance(given, tuple):
            function, name = given
            if function == "Sub":
                return name.replace("${AWS::Partition}", "aws").replace("${Bucket}", bucket)
            return made[name.partition(".")[0]]
        if isinstance(given, dict):
            return {key: value(item) for key, item in given.items()}
        return [value(item) for item in given] if isinstance(given, list) else given

    for name, resource in resources.items():
        kind, known = resource["Type"], value(resource["Properties"])
        if kind == "AWS::IAM::ManagedPolicy":
            policy = iam.create_policy(
                PolicyName=name, PolicyDocument=json.dumps(known["PolicyDocument"])
            )
            made[name] = policy["Policy"]["Arn"]
        elif kind == "AWS::IAM::Role":
            role = known["RoleName"]
            trust = json.dumps(known["AssumeRolePolicyDocument"])
            made[name] = iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)["Role"][
                "Arn"
            ]
            for arn in known["ManagedPolicyArns"]:
                iam.attach_role_policy(RoleName=role, PolicyArn=arn)
            for policy in known.get("Policies", []):
                iam.put_role_policy(
                    RoleName=role,
                    PolicyName=policy["PolicyName"],
                    PolicyDocument=json.dumps(policy["PolicyDocument"]),
                )
        else:
            assert kind == "AWS::IAM::InstanceProfile", kind
            profile = known["InstanceProfileName"]
            iam.create_instance_profile(InstanceProfileName=profile)
            for arn in known["Roles"]:
                iam.add_role_to_instance_profile(
                    InstanceProfileName=profile, RoleName=arn.rpartition("/")[2]
                )


class Laptop:
    """A home folder with a token, and an ssh and an rsync that only write down what they do.

    Args:
        home: an empty folder.
        aws: what the AWS clients on it talk to.
        pythonpath: where Manta is.
    """

    def __init__(self, home: Path, aws: MockAws, pythonpath: Path):
        self._home = home
        programs = home / "bin"
        programs.mkdir()
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("0" * 64)
        for name in ("ssh", "rsync"):
            program = programs / name
            # The head's own config is a temporary file: keep what would have been sent.
            program.write_text(
                f"#!/bin/bash\nprintf '%s\\n' \"{name} $*\" >> {home}/calls\n"
                f"for word; do case $word in */ray-bootstrap-*) cp $word {home}/head.json;; "
                "esac; done\n"
            )
            program.chmod(0o755)
        self.environment = {
            **os.environ,
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": aws.url,
            "HOME": str(home),
            "TMPDIR": str(home),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(pythonpath),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def calls(self, program: str) -> list[str]:
        """What `program` was called with, call by call."""
        lines = (self._home / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith(f"{program} ")]

    def heads_config(self) -> Path:
        """The config that the head was sent."""
        return self._home / "head.json"

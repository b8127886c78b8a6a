"""cluster.yaml on a mock of AWS: the real `ray up` and `ray down`, Ray's autoscaler and provider.

Only ssh and rsync to the instances are stand-ins, which write down what they were to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mock_aws import CREDENTIALS, Laptop, grant_access, mock_aws

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")


def run_ray(laptop, *words):
    done = subprocess.run(
        [RAY, *words], cwd=ROOT, env=laptop.environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def aws():
    with mock_aws() as aws:
        grant_access(aws, ROOT / "cluster" / "aws-access.yaml", "some-bucket")
        yield aws


@pytest.fixture(scope="module")
def laptop(aws, tmp_path_factory):
    """A laptop from which `ray up cluster.yaml` was run, and at the end `ray down`."""
    laptop = Laptop(tmp_path_factory.mktemp("home"), aws, ROOT / "platform")
    run_ray(laptop, "up", "-y", "cluster.yaml")
    yield laptop
    run_ray(laptop, "down", "-y", "cluster.yaml")
    assert aws.instances() == []


@pytest.fixture(scope="module")
def provider(aws, laptop):
    """What Ray's autoscaler on the head has: its provider, from the config that the head got."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.v2.instance_manager.config import FileConfigReader
    from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": aws.url}.items():
            patch.setenv(name, value)
        patch.setattr("manta.cluster.aws.ROUND_SECONDS", 0.0)
        # On the head the key has another place, with the same content.
        config = json.loads(laptop.heads_config().read_text())
        (key,) = Path(laptop.environment["HOME"], ".ssh").iterdir()
        config["auth"]["ssh_private_key"] = str(key)
        path = laptop.heads_config().with_name("config.json")
        path.write_text(json.dumps(config))
        reader = FileConfigReader(str(path), skip_content_hash=True)
        ray = _get_node_provider(config["provider"], config["cluster_name"])
        yield NodeProviderAdapter(ray, reader)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def test_the_head_is_a_small_machine_with_rights_of_its_own(aws, laptop):
    (head,) = aws.instances()
    assert head["InstanceType"] == "m7i.xlarge"
    assert "InstanceLifecycle" not in head
    assert head["IamInstanceProfile"]["Arn"].endswith("/manta-head")
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert head["tags"]["ray-cluster-name"] == "manta"
    assert head["tags"]["ray-node-type"] == "head"
    assert head["tags"]["ray-node-status"] == "up-to-date"


def test_only_ssh_is_open(aws, laptop):
    (head,) = aws.instances()
    (group,) = head["SecurityGroups"]
    (found,) = aws.client("ec2").describe_security_groups(GroupIds=[group["GroupId"]])[
        "SecurityGroups"
    ]
    inside = [rule for rule in found["IpPermissions"] if not rule["IpRanges"]]
    outside = [rule for rule in found["IpPermissions"] if rule["IpRanges"]]
    assert [pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]] == [
        group["GroupId"]
    ]
    assert [rule["IpProtocol"] for rule in inside] == ["-1"]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in outside] == [
        ("tcp", 22, 22)
    ]


def test_a_security_group_that_has_rules_is_left_alone(aws, laptop, provider, monkeypatch):
    from ray.autoscaler._private.util import prepare_config

    from manta.cluster.aws import SpotFirst

    monkeypatch.setenv("HOME", laptop.environment["HOME"])
    (head,) = aws.of_type("head")
    ec2 = aws.client("ec2")
    group = ec2.create_security_group(GroupName="mine", Description="-", VpcId=head["VpcId"])
    mine = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    ranges = [{"CidrIp": "203.0.113.7/32"}]
    ec2.authorize_security_group_ingress(
        GroupId=group["GroupId"], IpPermissions=[{**mine, "IpRanges": ranges}]
    )
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["provider"]["security_group"]["GroupName"] = "mine"
    resolved = SpotFirst.bootstrap_config(prepare_config(config))["available_node_types"]
    for kind in resolved.values():
        assert kind["node_config"]["SecurityGroupIds"] == [group["GroupId"]]
    (found,) = ec2.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    assert [rule["IpRanges"] for rule in found["IpPermissions"]] == [ranges]


def test_the_token_and_the_lock_file_reach_the_head_and_ray_starts_last(laptop):
    sent = [call.rpartition(":")[2] for call in laptop.calls("rsync")]
    assert {"~/.ray/auth_token", "~/manta/requirements.lock", "~/manta/cluster/"} <= set(sent)
    commands = laptop.calls("ssh")
    setup = next(i for i, call in enumerate(commands) if "bash ~/manta/cluster/setup.sh" in call)
    start = next(i for i, call in enumerate(commands) if "ray start --head" in call)
    assert setup < start
    assert "--dashboard-host=127.0.0.1" in commands[start]
    assert 'RAY_OVERRIDE_RESOURCES=\'"\'"\'{"CPU":4,"GPU":0}' in commands[start]
    assert "RAY_enable_autoscaler_v2=1" in commands[start]


def test_nothing_secret_is_in_what_the_head_is_sent(laptop):
    text = laptop.heads_config().read_text()
    assert "0" * 64 not in text
    assert "PRIVATE KEY" not in text


def test_spot_workers(aws, provider):
    provider.launch({"gpu-spot": 1}, "first")
    workers = wait_for(lambda: aws.of_type("gpu-spot"))
    for worker in workers:
        assert worker["InstanceType"] == "g6.2xlarge"
        assert worker["InstanceLifecycle"] == "spot"
        assert worker["IamInstanceProfile"]["Arn"].endswith("/manta-worker")
        assert worker["tags"]["ray-node-type"] == "worker"
        volume = worker["BlockDeviceMappings"][0]
        assert volume["Ebs"]["DeleteOnTermination"]
        (described,) = aws.client("ec2").describe_volumes(VolumeIds=[volume["Ebs"]["VolumeId"]])[
            "Volumes"
        ]
        assert (described["Size"], described["VolumeType"], described["Encrypted"]) == (
            200,
            "gp3",
            True,
        )
    assert provider.poll_errors() == []


def test_on_demand_workers_where_there_is_no_spot(aws, provider):
    aws.spot = False
    try:
        before = len(aws.of_type("gpu-spot"))
        provider.launch({"gpu-spot": 1}, "second")
        (error,) = wait_for(provider.poll_errors)
    finally:
        aws.spot = True
    assert aws.refused
    assert "launched 1 of gpu-on-demand instead" in repr(error)
    assert error.node_type == "gpu-spot"
    (worker,) = aws.of_type("gpu-on-demand")
    assert "InstanceLifecycle" not in worker
    assert worker["InstanceType"] == "g6.2xlarge"
    assert len(aws.of_type("gpu-spot")) == before
    # The autoscaler takes what it finds by its tags, with the labels of that type.
    listed = provider.get_non_terminated()[worker["InstanceId"]]
    assert listed.node_type == "gpu-on-demand"


def test_on_demand_workers_for_what_spot_lacks(aws, provider):
    before = len(aws.of_type("gpu-spot"))
    provider.launch({"gpu-spot": 2}, "third")  # of which the mock gives one, as AWS may
    (error,) = wait_for(provider.poll_errors)
    assert "1 of 2 gpu-spot missing" in repr(error)
    assert len(aws.of_type("gpu-spot")) == before + 1
    assert len(aws.of_type("gpu-on-demand")) == 2


def test_no_more_on_demand_workers_than_allowed(aws, provider):
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    assert types["gpu-on-demand"]["max_workers"] == len(aws.of_type("gpu-on-demand"))
    aws.spot = False
    try:
        provider.launch({"gpu-spot": 1}, "fourth")
        (error,) = wait_for(provider.poll_errors)
    finally:
        aws.spot = True
    assert "launched 0 of gpu-on-demand instead" in repr(error)
    assert len(aws.of_type("gpu-on-demand")) == 2


def test_spot_again_as_soon_as_there_is_some(aws, provider):
    before = len(aws.of_type("gpu-spot"))
    provider.launch({"gpu-spot": 1}, "fifth")
    wait_for(lambda: len(aws.of_type("gpu-spot")) == before + 1)
    assert provider.poll_errors() == []


def test_other_refusals_are_not_paid_for_on_demand(aws, provider, monkeypatch):
    before = len(aws.instances())
    kinds = provider.v1_provider.provider_config["fallback_types"]
    config = {**kinds["gpu-on-demand"]["node_config"], "IamInstanceProfile": {"Name": "nobody"}}
    tags = {
        "ray-node-type": "worker",
        "ray-user-node-type": "gpu-spot",
        "ray-launch-config": "x",
        "ray-node-name": "x",
    }
    with pytest.raises(Exception, match="Instance profile nobody not found"):
        provider.v1_provider.create_node(config, tags, 1)
    assert len(aws.instances()) == before

"""`manta doctor CLUSTER.yaml`: the shipped files pass, and each mistake is found and answered."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cluster_files import AWS, KUBERAY, ON_PREM, ROOT, SPOT_RESOURCES, edited, found, gpu_run

from manta.cluster.doctor import diagnose
from manta.cluster.findings import CheckResult
from manta.cluster.lockfile import read_lock
from manta.config import ConfigError

SHIPPED = ["cluster.yaml", "cluster/gcp.yaml", "cluster/on-prem.yaml", "cluster/kuberay.yaml"]

pytestmark = pytest.mark.usefixtures("laptop")


@pytest.mark.parametrize("path", SHIPPED)
def test_shipped_files_pass(path):
    assert found(path, CheckResult.FAILED) == {}


def test_the_file_for_aws_leaves_no_doubt():
    assert found("cluster.yaml", CheckResult.WARNING) == {}


def test_the_image_is_built_on_the_ray_of_the_lock_file():
    version = read_lock(ROOT / "requirements.lock")["ray"]
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{version}-py312-gpu\n" in dockerfile


ENV = ". ~/manta/cluster/env.sh;\n    ray start --head"
MISTAKES = {
    "misspelt key": (
        AWS,
        [("idle_timeout_minutes", "idle_timeout_minute")],
        ("schema", "did you mean 'idle_timeout_minutes'?"),
    ),
    "misspelt key of a type": (
        AWS,
        [("    min_workers: 0", "    min_worker: 0")],
        ("schema", "'available_node_types.gpu-spot.min_worker'"),
    ),
    "missing key": (
        "cluster/gcp.yaml",
        [("    resources: {CPU: 4, GPU: 0}", "    # resources")],
        ("schema", "available_node_types.head: 'resources' is a required property"),
    ),
    "min above max": (
        AWS,
        [("    min_workers: 0\n    max_workers: 8", "    min_workers: 9\n    max_workers: 8")],
        ("nodes", "gpu-spot: the minimum of 9 nodes exceeds the maximum of 8"),
    ),
    "min above the cluster's max": (
        AWS,
        [("max_workers: 8 ", "max_workers: 1 "), ("    min_workers: 0", "    min_workers: 2")],
        ("nodes", "minimums add up to 2 workers, but max_workers is 1"),
    ),
    "no workers": (
        AWS,
        [("max_workers: 8 ", "max_workers: 0 ")],
        ("nodes", "the cluster may launch no worker"),
    ),
    "head with a GPU": (
        AWS,
        [("resources: {CPU: 4, GPU: 0}", "resources: {CPU: 4, GPU: 1}")],
        ("head", "the head has GPUs: m7i.xlarge (4 CPU, 1 GPU)"),
    ),
    "head on a GPU machine": (
        AWS,
        [("InstanceType: m7i.xlarge", "InstanceType: g6.xlarge")],
        ("head", "the head has GPUs: g6.xlarge"),
    ),
    "no idle timeout": (
        AWS,
        [("idle_timeout_minutes: 5 ", "# idle_timeout_minutes: 5")],
        ("idle nodes", "no idle timeout"),
    ),
    "no such fallback": (
        AWS,
        [("{gpu-spot: gpu-on-demand}", "{gpu-spot: gpu-ondemand}")],
        ("spot", "names 'gpu-ondemand', which is no node type"),
    ),
    "fallback to spot": (
        AWS,
        [("{gpu-spot: gpu-on-demand}", "{gpu-spot: gpu-spot}")],
        ("spot", "which is spot too"),
    ),
    "unlike fallback": (
        AWS,
        [(SPOT_RESOURCES, SPOT_RESOURCES.replace("8", "4"))],
        ("spot", "its fallback g6.2xlarge (8 CPU, 1 GPU)"),
    ),
    "packages beside the lock": (
        AWS,
        [("head_setup_commands: []", "head_setup_commands: [pip install ray==2.59.0 flash-attn]")],
        ("packages", "'ray==2.59.0' besides requirements.lock, which pins ray==2.60.0"),
    ),
    "packages without a version": (
        AWS,
        [("head_setup_commands: []", "head_setup_commands: [pip install -U flash-attn]")],
        ("packages", "'flash-attn' besides requirements.lock, which doesn't have it"),
    ),
    "no lock": (
        AWS,
        [("  - bash ~/manta/cluster/setup.sh", "  - echo ready")],
        ("packages", "no setup command installs requirements.lock"),
    ),
    "missing file": (
        AWS,
        [('"~/manta/cluster": cluster', '"~/manta/cluster": clusters')],
        ("files", "clusters, which doesn't exist"),
    ),
    "other Ray in the image": (
        KUBERAY,
        [("manta:2.60.0-gpu", "manta:2.59.1-gpu")],
        ("Ray version", "has Ray 2.59.1, but requirements.lock has 2.60.0"),
    ),
    "other Ray of the operator": (
        KUBERAY,
        [("rayVersion: 2.60.0", "rayVersion: 2.59.0")],
        ("Ray version", "rayVersion is 2.59.0"),
    ),
    "image without CUDA": (
        KUBERAY,
        [("YOUR-REGISTRY/manta:2.60.0-gpu", "rayproject/ray:2.60.0-py312")],
        ("image", "gpu-spot has GPUs, but its image has no CUDA"),
    ),
    "machine without CUDA": (
        AWS,
        [("/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-", "canonical/ubuntu/")],
        ("image", "gpu-spot has GPUs, but its image has no CUDA"),
    ),
    "a key in the file": (
        AWS,
        [("head_setup_commands: []", "head_setup_commands: [export WANDB_API_KEY=0123456789abcd]")],
        ("secrets", "a secret"),
    ),
    "a key in a comment": (
        AWS,
        [("# Change what", "# AKIAABCDEFGHIJKLMNOP\n# Change what")],
        ("secrets", ": an AWS access key"),
    ),
    "a Secret with its content": (
        KUBERAY,
        [("apiVersion: v1\n", "apiVersion: v1\nkind: Secret\nstringData: {a: b}\n---\n")],
        ("secrets", "a Secret with its values"),
    ),
    "a key in a container's environment": (
        KUBERAY,
        [("envFrom:", "env: [{name: WANDB_API_KEY, value: abc}]\n            envFrom:")],
        ("secrets", "the value of the variable WANDB_API_KEY stands in the file"),
    ),
    "no token": (
        AWS,
        [(ENV, "ray start --head")],
        ("token", "Ray is started without token authentication"),
    ),
    "token off": (
        AWS,
        [(ENV, f"export RAY_AUTH_MODE=disabled; {ENV}")],
        ("token", "token authentication is off"),
    ),
    "token not sent": (
        AWS,
        [('  "~/.ray/auth_token": ~/.ray/auth_token\n', "")],
        ("token", "the nodes don't get the token"),
    ),
    "token off in Kubernetes": (
        KUBERAY,
        [("authOptions: {mode: token}", "authOptions: {mode: disabled}")],
        ("token", "token authentication is off"),
    ),
    "dashboard": (
        ON_PREM,
        [("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")],
        ("dashboard", "open to connections from anywhere"),
    ),
    "dashboard in Kubernetes": (
        KUBERAY,
        [("serviceType: ClusterIP", "serviceType: LoadBalancer")],
        ("dashboard", "open to connections from outside the cluster: serviceType: LoadBalancer"),
    ),
    "ports": (
        AWS,
        [
            (
                "{GroupName: manta}",
                "{GroupName: manta, IpPermissions: [{FromPort: 8265, ToPort: 8265, "
                "IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}]}",
            )
        ],
        ("ports", "lets anyone connect: port 8265"),
    ),
    "no autoscaler": (
        KUBERAY,
        [("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false")],
        ("idle nodes", "the autoscaler is off"),
    ),
    "group without a container": (
        KUBERAY,
        [
            (
                "          containers:\n            - name: ray-worker",
                "          container:\n            - name: ray-worker",
            )
        ],
        ("schema", "Ray's autoscaler can't read the RayCluster"),
    ),
    "group without a name": (
        KUBERAY,
        [("    - groupName: gpu-spot\n      replicas: 0", "    - replicas: 0")],
        ("schema", "spec.workerGroupSpecs.0.groupName is missing"),
    ),
    "job of another cluster": (
        KUBERAY,
        [("{ray.io/cluster: manta}", "{ray.io/cluster: monta}")],
        ("schema", "'monta', which this file doesn't have"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_found(mistake, tmp_path):
    path, changes, (check, words) = MISTAKES[mistake]
    failed = found(edited(tmp_path, path, *changes), CheckResult.FAILED)
    (remedy,) = [do for (of, what), do in failed.items() if of == check and words in what]
    assert remedy


def test_all_mistakes_are_told_at_once(tmp_path):
    changes = [MISTAKES[name][1][0] for name in ("head with a GPU", "no lock", "token not sent")]
    failed = found(edited(tmp_path, AWS, *changes), CheckResult.FAILED)
    assert {check for check, _ in failed} == {"head", "packages", "token"}


def test_secrets_are_never_repeated(tmp_path):
    secret = "AKIAABCDEFGHIJKLMNOP"
    copy = edited(tmp_path, AWS, ("# Change what", f"# {secret}\n# Change what"))
    assert secret not in str(diagnose(copy, None))


def test_what_this_machine_lacks(laptop, monkeypatch):
    (laptop / "bin" / "rsync").unlink()
    (laptop / ".ray" / "auth_token").unlink()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    failed = found(AWS, CheckResult.FAILED)
    assert {check for check, _ in failed} == {"tools", "token", "credentials"}
    assert "make one: ray get-auth-token --generate > /dev/null" in failed.values()


def test_what_is_not_a_cluster_file(tmp_path):
    (tmp_path / "a.yaml").write_text("run: {name: a}\n")
    with pytest.raises(ConfigError, match="config of a run, not of a cluster"):
        diagnose(tmp_path / "a.yaml", None)
    (tmp_path / "a.yaml").write_text("a: b\n")
    with pytest.raises(ConfigError, match="not a cluster file"):
        diagnose(tmp_path / "a.yaml", None)
    (tmp_path / "b.yaml").write_text("apiVersion: v1\nkind: Pod\n")
    with pytest.raises(ConfigError, match="no RayCluster"):
        diagnose(tmp_path / "b.yaml", None)
    with pytest.raises(ConfigError, match="no such cluster file"):
        diagnose(tmp_path / "c.yaml", None)


def test_values_of_the_wrong_type_are_refused_together(tmp_path):
    changes = [
        ("max_workers: 8", "max_workers: many"),
        ("head_setup_commands: []", "head_setup_commands: no"),
    ]
    with pytest.raises(ConfigError) as refused:
        diagnose(edited(tmp_path, AWS, *changes), None)
    assert "max_workers: 'many' is not of type 'integer'" in str(refused.value)
    assert "head_setup_commands: False is not of type 'array'" in str(refused.value)


def test_resources_that_only_aws_knows(tmp_path):
    copy = edited(tmp_path, AWS, (SPOT_RESOURCES, ""))
    assert ("spot" in {check for check, _ in found(copy, CheckResult.FAILED)}) is True
    (what,) = [
        what for check, what in found(copy, CheckResult.WARNING, gpu_run()) if check == "nodes"
    ]
    assert what.startswith("gpu-spot has no resources in the file")


def workers(verdict, run, path=AWS):
    return [what for check, what in found(path, verdict, run) if check == "workers"]


def test_workers_have_room():
    assert workers(CheckResult.OK, gpu_run("scaling.min=1", "scaling.max=8")) == [
        "1 to 8 of 1 CPU and 1 GPU: room for 8 (gpu-spot, gpu-on-demand)"
    ]


def test_workers_that_no_node_type_holds():
    run = gpu_run("scaling.resources_per_worker.GPU=2")
    (what,) = workers(CheckResult.FAILED, run)
    assert (
        "is 1 CPU and 2 GPU, the largest node type gpu-spot has g6.2xlarge (8 CPU, 1 GPU)" in what
    )


def test_more_workers_than_nodes():
    assert workers(CheckResult.FAILED, gpu_run("scaling.min=9")) == [
        "scaling.min = 9 workers of 1 CPU and 1 GPU, but the nodes have room for 8"
    ]
    assert workers(CheckResult.WARNING, gpu_run("scaling.min=1", "scaling.max=9")) == [
        "scaling.max = 9 workers of 1 CPU and 1 GPU, but the nodes have room for 8"
    ]


def test_the_command(laptop):
    def run(*words):
        command = [sys.executable, "-m", "manta.cli", "doctor", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    sound = run("cluster.yaml")
    assert sound.returncode == 0, sound.stdout
    assert "0 failed" in sound.stdout
    broken = edited(laptop, AWS, *MISTAKES["no lock"][1])
    unsound = run(str(broken))
    assert unsound.returncode == 1
    assert "1 failed" in unsound.stdout
    assert "→" in unsound.stdout

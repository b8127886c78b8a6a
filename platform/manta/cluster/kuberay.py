"""Cluster files of KubeRay: find the RayCluster among the objects, and read it into a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from manta.cluster.cluster_file import ClusterPlan, NodeGroup, NodeProvider
from manta.config.errors import ConfigError

GPU = "nvidia.com/gpu"
SPOT = ("spot", "preemptible")


def is_kubernetes(text: str) -> bool:
    """Whether a file holds objects of Kubernetes."""
    return re.search(r"^apiVersion:", text, re.MULTILINE) is not None


def read_kuberay(path: Path, text: str) -> ClusterPlan:
    """Read a file with a RayCluster, or with a RayJob that has one in its spec.

    Raises:
        ConfigError: if the file has no RayCluster, or isn't valid YAML.
    """
    try:
        objects = [item for item in yaml.safe_load_all(text) if isinstance(item, dict)]
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    spec = next(_clusters(objects), None)
    if spec is None:
        raise ConfigError(
            f"{path}: not a cluster file: it has no RayCluster, and no RayJob with a rayClusterSpec"
        )
    groups = tuple(_groups(spec))
    return ClusterPlan(
        path=path,
        text=text,
        provider=NodeProvider.KUBERAY,
        data={"spec": spec, "objects": objects},
        groups=groups,
        most=sum(group.most for group in groups if not group.head),
    )


def _clusters(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in objects:
        spec = item.get("spec") or {}
        if item.get("kind") == "RayCluster":
            yield spec
        elif "rayClusterSpec" in spec:
            yield spec["rayClusterSpec"]


def _groups(spec: dict[str, Any]) -> Iterator[NodeGroup]:
    head = spec.get("headGroupSpec") or {}
    yield _group("head", head, True, 0, 0)
    for given in spec.get("workerGroupSpecs") or []:
        least, most = given.get("minReplicas", 0), given.get("maxReplicas", 0)
        if not spec.get("enableInTreeAutoscaling"):
            least = most = given.get("replicas", 0)
        yield _group(str(given.get("groupName")), given, False, least, most)


def _group(name: str, given: dict[str, Any], head: bool, least: int, most: int) -> NodeGroup:
    pod = (given.get("template") or {}).get("spec") or {}
    container = (pod.get("containers") or [{}])[0]
    limits = (container.get("resources") or {}).get("limits") or {}
    started = given.get("rayStartParams") or {}
    resources = {
        "CPU": _amount(started.get("num-cpus", limits.get("cpu", 0))),
        "GPU": _amount(started.get("num-gpus", limits.get(GPU, 0))),
    }
    chosen = " ".join(map(str, (pod.get("nodeSelector") or {}).items())).lower()
    return NodeGroup(
        name=name,
        head=head,
        resources=resources,
        least=least,
        most=most,
        image=container.get("image"),
        spot=any(word in chosen for word in SPOT),
    )


def _amount(given: Any) -> float:
    """A Kubernetes quantity of CPUs or GPUs, such as 4, "4" or "500m", as a number."""
    text = str(given)
    try:
        return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        return 0.0


def schema_errors(plan: ClusterPlan) -> list[str]:
    """What Ray's autoscaler would refuse in the RayCluster, and RayJobs of other clusters."""
    errors = list(_lost_jobs(plan.data["objects"]))
    spec = plan.data["spec"]
    groups = spec.get("workerGroupSpecs") or []
    if not isinstance(spec.get("headGroupSpec"), dict) or not groups:
        return [*errors, "spec.headGroupSpec or spec.workerGroupSpecs is missing"]
    for index, group in enumerate(groups):
        if not group.get("groupName"):
            errors.append(f"spec.workerGroupSpecs.{index}.groupName is missing")
    if not errors:
        errors += _refused_by_ray(spec)
    return errors


def _refused_by_ray(spec: dict[str, Any]) -> list[str]:
    """What Ray's autoscaler refuses when it makes its own config of the spec, as in the cluster."""
    # Internal to Ray 2.60; tests/cluster/test_doctor.py guards it.
    from ray.autoscaler._private.kuberay import autoscaling_config
    from ray.autoscaler._private.util import validate_config

    given = {"metadata": {"name": "cluster", "namespace": "default"}, "spec": spec}
    try:
        validate_config(autoscaling_config._derive_autoscaling_config_from_ray_cr(given))
    except Exception as error:
        said = getattr(error, "message", None) or str(error)
        return [f"Ray's autoscaler can't read the RayCluster: {type(error).__name__}: {said}"]
    return []


def _lost_jobs(objects: list[dict[str, Any]]) -> Iterator[str]:
    """RayJobs that name a cluster which isn't in the file."""
    names = {
        (item.get("metadata") or {}).get("name")
        for item in objects
        if item.get("kind") == "RayCluster"
    }
    for item in objects:
        chosen = ((item.get("spec") or {}).get("clusterSelector") or {}).get("ray.io/cluster")
        if item.get("kind") == "RayJob" and chosen is not None and chosen not in names:
            yield f"a RayJob's clusterSelector names '{chosen}', which this file doesn't have"

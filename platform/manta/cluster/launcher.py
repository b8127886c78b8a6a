"""Cluster files of `ray up`: read into a plan, and checked against Ray's own schema."""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manta.cluster.cluster_file import ClusterPlan, NodeGroup, NodeProvider
from manta.config.errors import ConfigError
from manta.config.kinds import CLUSTER, mistaken
from manta.config.load import read

KINDS = {"aws": NodeProvider.AWS, "gcp": NodeProvider.GCP, "local": NodeProvider.LOCAL}
SETUP = ("setup_commands", "head_setup_commands", "worker_setup_commands")
START = ("head_start_ray_commands", "worker_start_ray_commands")
OUR_PROVIDERS = {"manta.cluster.aws.SpotFirst": NodeProvider.AWS}


def read_launcher(path: Path, text: str) -> ClusterPlan:
    """Read a file of `ray up`; `schema_errors` finds its unknown and missing keys.

    Raises:
        ConfigError: if the file is no mapping with a provider, or a value is of the wrong type.
    """
    data = read(path).data
    if other := mistaken(CLUSTER, data.keys(), str(path)):
        raise ConfigError(other)
    provider = data.get("provider")
    if not isinstance(provider, dict) or "type" not in provider:
        raise ConfigError(
            f"{path}: not a cluster file: no provider.type; give a file for `ray up`, or one with "
            "a RayCluster"
        )
    _refuse_misshapen(path, data)
    kind = KINDS.get(provider["type"]) or OUR_PROVIDERS.get(
        str(provider.get("module")), NodeProvider.OTHER
    )
    workers = provider.get("worker_ips") or []
    most = _whole(data.get("max_workers"), len(workers))
    return ClusterPlan(
        path=path,
        text=text,
        provider=kind,
        data=data,
        groups=tuple(_groups(data, most)),
        most=most,
        setup=tuple(_commands(data, *SETUP)),
        start=tuple(_commands(data, *START)),
        mounts=dict(data.get("file_mounts") or {}),
        machines=1 + min(most, len(workers)) if kind is NodeProvider.LOCAL else 0,
    )


def _groups(data: dict[str, Any], most: int) -> Iterator[NodeGroup]:
    for name, given in (data.get("available_node_types") or {}).items():
        node = given.get("node_config") or {}
        head = name == data.get("head_node_type")
        resources = given.get("resources") or {}
        yield NodeGroup(
            name=name,
            head=head,
            resources=resources,
            least=_whole(given.get("min_workers"), 0),
            most=_whole(given.get("max_workers"), 0 if head else most),
            image=_image(data, node),
            spot=_is_spot(node),
            machine=node.get("InstanceType") or node.get("machineType"),
        )


def _image(data: dict[str, Any], node: dict[str, Any]) -> str | None:
    docker = (data.get("docker") or {}).get("image")
    if docker or node.get("ImageId"):
        return str(docker or node["ImageId"])
    for disk in node.get("disks") or []:
        source = (disk.get("initializeParams") or {}).get("sourceImage")
        if source:
            return str(source)
    return None


def _is_spot(node: dict[str, Any]) -> bool:
    market = (node.get("InstanceMarketOptions") or {}).get("MarketType")
    scheduling = node.get("scheduling") or {}
    if isinstance(scheduling, list):  # as in Ray's own examples
        scheduling = {key: value for item in scheduling for key, value in item.items()}
    return market == "spot" or (
        scheduling.get("provisioningModel") == "SPOT" or bool(scheduling.get("preemptible"))
    )


def _commands(data: dict[str, Any], *keys: str) -> Iterator[str]:
    for key in keys:
        for command in data.get(key) or []:
            yield str(command)


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def schema_errors(plan: ClusterPlan) -> list[str]:
    """All mistakes in the file that Ray would refuse it for."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    errors = [*_unknown(plan), *_missing(plan)]
    if errors:
        return errors
    try:
        with _silent():
            validate_config(prepare_config(copy.deepcopy(plan.data)))
    # Ray ends the process on some mistakes.
    except (Exception, SystemExit) as error:
        return [getattr(error, "message", None) or str(error) or "Ray can't read the file"]
    return []


def _schema() -> dict[str, Any]:
    """Ray's own schema of cluster files; its path is internal to Ray 2.60."""
    import ray.autoscaler

    file = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def _violations(data: dict[str, Any]) -> Iterator[Any]:
    import jsonschema

    schema = _schema()
    yield from jsonschema.validators.validator_for(schema)(schema).iter_errors(data)


def _refuse_misshapen(path: Path, data: dict[str, Any]) -> None:
    """Refuse values of another type than Ray's schema has, so that the file can be read.

    Raises:
        ConfigError: naming all such keys.
    """
    # `schema_errors` reports missing keys and unknown ones, these with the key that was meant.
    later = ("required", "additionalProperties")
    wrong = [e for e in _violations(data) if e.validator not in later]
    if wrong:
        lines = [f"{path}: {_dotted(e.absolute_path)}{e.message}" for e in wrong]
        raise ConfigError("\n".join(lines))


def _missing(plan: ClusterPlan) -> Iterator[str]:
    # On AWS `ray up` asks the cloud for the resources of instance types.
    filled = ["'resources' is a required property"] if plan.provider is NodeProvider.AWS else []
    for error in _violations(plan.data):
        if error.validator == "required" and error.message not in filled:
            yield f"{_dotted(error.absolute_path)}{error.message}"


def _unknown(plan: ClusterPlan) -> Iterator[str]:
    """Keys that Ray doesn't know, with the most similar key that it knows."""
    config, schema = plan.data, _schema()
    types = schema["properties"]["available_node_types"]["patternProperties"][".*"]["properties"]
    # For machines of your own Ray takes min_workers at the top, and moves it to the node type.
    known = [
        *schema["properties"],
        *(["min_workers"] if plan.provider is NodeProvider.LOCAL else []),
    ]
    yield from _unknown_in("", config, known)
    for section in ("auth", "docker"):
        names = schema["properties"][section]["properties"]
        yield from _unknown_in(f"{section}.", config.get(section) or {}, list(names))
    for name, given in (config.get("available_node_types") or {}).items():
        yield from _unknown_in(f"available_node_types.{name}.", given, list(types))


def _unknown_in(where: str, given: dict[str, Any], known: list[str]) -> Iterator[str]:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            yield f"unknown key '{where}{key}'" + (f"; did you mean '{near[0]}'?" if near else "")


def _dotted(path: Any) -> str:
    dotted = ".".join(map(str, path))
    return f"{dotted}: " if dotted else ""


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence Ray's launcher, which prints and logs mistakes that are reported here instead."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)

"""`manta doctor`: find what would go wrong before anything is launched or costs money."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from manta.cluster.check_access import (
    check_credentials,
    check_data,
    check_placeholders,
    check_wandb,
)
from manta.cluster.check_machine import check_machine
from manta.cluster.check_nodes import check_nodes, check_run
from manta.cluster.check_safety import check_safety
from manta.cluster.check_software import (
    check_images,
    check_packages,
    check_schema,
    check_tools,
    check_versions,
)
from manta.cluster.cluster_file import ClusterPlan
from manta.cluster.findings import Finding, failed
from manta.cluster.kuberay import is_kubernetes, read_kuberay
from manta.cluster.launcher import read_launcher
from manta.cluster.lockfile import NAME, find_lock
from manta.config.errors import ConfigError
from manta.config.run import RunConfig


def diagnose(cluster: Path | None, run: RunConfig | None) -> list[Finding]:
    """Check a cluster file, or this machine if `cluster` is None, and what `run` needs of it.

    Nothing is launched and nothing costs money: requests go to storage and W&B only.

    Raises:
        ConfigError: if the cluster file or the lock file can't be read at all.
    """
    if cluster is None:
        return [*check_machine(find_lock(Path.cwd())), *_outside(None, run)]
    plan = read_plan(cluster)
    return [*_of_cluster(plan), *(check_run(plan, run) if run else ()), *_outside(plan, run)]


def read_plan(path: Path) -> ClusterPlan:
    """Read a cluster file of any kind.

    Raises:
        ConfigError: if it isn't one, naming the file and what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such cluster file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    return read_kuberay(path, text) if is_kubernetes(text) else read_launcher(path, text)


def _of_cluster(plan: ClusterPlan) -> Iterator[Finding]:
    yield from check_schema(plan)
    yield from check_placeholders(plan)
    yield from check_nodes(plan)
    lock = find_lock(plan.path)
    if lock is None:
        yield failed(
            "packages", f"no {NAME} found", "run `manta doctor` from the root of the repository"
        )
    else:
        yield from check_packages(plan, lock)
        yield from check_versions(plan, lock)
    yield from check_images(plan)
    yield from check_safety(plan)
    yield from check_tools(plan)
    yield from check_credentials(plan)


def _outside(plan: ClusterPlan | None, run: RunConfig | None) -> Iterator[Finding]:
    if run is not None:
        yield from check_data(plan, run)
        yield from check_wandb(plan, run.wandb)

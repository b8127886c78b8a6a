"""Does the cluster have the nodes that a run needs, and none that cost money without work?"""

from __future__ import annotations

from collections.abc import Iterator

from manta.cluster.cluster_file import ClusterPlan, NodeGroup, NodeProvider
from manta.cluster.findings import Finding, failed, ok, warning
from manta.config.run import RunConfig

# A node that is kept without work for longer than this costs more than its restart would.
LONG_IDLE_MINUTES = 60


def check_nodes(plan: ClusterPlan) -> Iterator[Finding]:
    """Numbers of nodes, what the head is used for, idle nodes, spot nodes and their fallback."""
    if plan.provider is NodeProvider.LOCAL:
        yield ok("nodes", f"{plan.machines} machines of your own, the head among them")
        return
    yield from _numbers(plan)
    yield from _unsized(plan)
    yield from _head(plan)
    yield from _idle(plan)
    yield from _spot(plan)


def _numbers(plan: ClusterPlan) -> Iterator[Finding]:
    wrong = False
    for group in plan.workers:
        if group.least > group.most:
            wrong = True
            yield failed(
                "nodes",
                f"{group.name}: the minimum of {group.least} nodes exceeds the maximum of "
                f"{group.most}",
                "lower the minimum, or raise the maximum",
            )
    least = sum(group.least for group in plan.workers)
    if least > plan.most:
        wrong = True
        yield failed(
            "nodes",
            f"the node types' minimums add up to {least} workers, but max_workers is {plan.most}",
            "raise max_workers, or lower min_workers of the node types",
        )
    if not any(group.most for group in plan.workers) or not plan.most:
        wrong = True
        yield failed(
            "nodes",
            "the cluster may launch no worker",
            "set max_workers above 0, and give a node type for workers",
        )
    if not wrong:
        types = ", ".join(f"{g.name} {g.least} to {g.most}" for g in plan.workers)
        yield ok("nodes", f"workers {least} to {plan.most}: {types}")
    if least:
        yield warning(
            "nodes",
            f"{least} workers always run, and cost money also when there is no work",
            "set the minimum to 0, unless you want that",
        )


def _unsized(plan: ClusterPlan) -> Iterator[Finding]:
    for group in plan.workers:
        if not group.resources:
            yield warning(
                "nodes",
                f"{group.name} has no resources in the file; Ray asks AWS for them at `ray up`",
                "give resources, such as {CPU: 8, GPU: 1}, so that they can be checked here",
            )


def _head(plan: ClusterPlan) -> Iterator[Finding]:
    head = plan.head
    if head is None:
        yield failed(
            "head", "no node type is the head's", "set head_node_type to one of the node types"
        )
    elif head.gpus or _has_gpus(head.machine):
        yield failed(
            "head",
            f"the head has GPUs: {_describe(head)}",
            "take a machine without GPUs for the head, with GPU: 0 in its resources; have GPUs in "
            "other node types, whose nodes come and go",
        )
    elif head.most:
        yield warning(
            "head",
            f"up to {head.most} workers may be of the head's node type {head.name}",
            f"set max_workers: 0 for {head.name}, and have workers in other node types",
        )
    else:
        yield ok("head", f"{_describe(head)}: drivers and CPU work only")


def _describe(group: NodeGroup) -> str:
    counts = ", ".join(f"{much:g} {name}" for name, much in group.resources.items())
    return f"{group.machine} ({counts})" if group.machine else counts


def _has_gpus(machine: str | None) -> bool:
    """Whether an instance type is one of those that are sold for their GPUs (AWS, GCP)."""
    return machine is not None and machine.startswith(
        ("p3", "p4", "p5", "p6", "g4", "g5", "g6", "g7", "a2-", "a3-", "a4-", "g2-")
    )


def _idle(plan: ClusterPlan) -> Iterator[Finding]:
    if plan.provider is NodeProvider.KUBERAY:
        spec = plan.data["spec"]
        if not spec.get("enableInTreeAutoscaling"):
            yield failed(
                "idle nodes",
                "the autoscaler is off: workers without work stay, and cost money",
                "set enableInTreeAutoscaling: true",
            )
            return
        seconds = (spec.get("autoscalerOptions") or {}).get("idleTimeoutSeconds", 60)
        minutes = seconds / 60
    elif plan.data.get("idle_timeout_minutes") is None:
        yield failed(
            "idle nodes",
            "no idle timeout: workers without work may stay, and cost money",
            "set idle_timeout_minutes: 5",
        )
        return
    else:
        minutes = float(plan.data["idle_timeout_minutes"])
    if minutes > LONG_IDLE_MINUTES:
        yield warning(
            "idle nodes",
            f"workers without work stay for {minutes:g} minutes, and cost money",
            "shorten the idle timeout; five minutes are usual",
        )
    else:
        yield ok("idle nodes", f"end after {minutes:g} minutes without work")


def _spot(plan: ClusterPlan) -> Iterator[Finding]:
    spot = [group for group in plan.workers if group.spot]
    if not spot:
        return
    provider = plan.data.get("provider") or {}
    for group in spot:
        others = [g for g in plan.workers if not g.spot and g.gpus and g.most]
        fallback = (provider.get("fallback") or {}).get(group.name)
        other = next((g for g in plan.groups if g.name == fallback), None)
        if fallback is not None and other is None:
            yield failed(
                "spot",
                f"provider.fallback of {group.name} names '{fallback}', which is no node type of "
                "this file",
                "name an on-demand node type of this file",
            )
        elif other is not None and other.spot:
            yield failed(
                "spot",
                f"{group.name} falls back to {other.name}, which is spot too",
                f"remove InstanceMarketOptions from {other.name}",
            )
        elif other is not None and other.resources != group.resources:
            yield failed(
                "spot",
                f"{group.name} has {_describe(group)}, its fallback {_describe(other)}",
                "give both types the same resources, so that one can replace the other",
            )
        elif other is not None:
            yield ok(
                "spot",
                f"{group.name}; without spot capacity {other.name}, up to {other.most} nodes",
            )
        elif others and plan.provider is NodeProvider.KUBERAY:
            yield ok(
                "spot", f"{group.name}; without spot capacity pods are tried as {others[0].name}"
            )
        else:
            yield warning(
                "spot",
                f"{group.name} has no fallback: without spot capacity there is no such node",
                "on AWS name an on-demand type in provider.fallback, as cluster.yaml does; "
                "elsewhere set min_workers of an on-demand type while spot capacity lacks",
            )


def check_run(plan: ClusterPlan, run: RunConfig) -> Iterator[Finding]:
    """Whether the nodes have room for the workers that a run's config asks for."""
    needs, scaling = run.scaling.resources_per_worker, run.scaling
    asked = " and ".join(f"{much:g} {name}" for name, much in needs.items() if much)
    if plan.provider is NodeProvider.LOCAL:
        yield ok("workers", f"{scaling.min} of {asked}: checked when the run starts")
        return
    if not all(group.resources for group in plan.workers):
        return  # check_nodes reports the missing resources
    fitting = [(group, group.room(needs)) for group in plan.groups if group.room(needs)]
    if not fitting:
        largest = max(plan.groups, key=lambda group: (group.gpus, group.resources.get("CPU", 0)))
        yield failed(
            "workers",
            f"no node has room for a worker: scaling.resources_per_worker is {asked}, the largest "
            f"node type {largest.name} has {_describe(largest)}",
            "lower scaling.resources_per_worker, or take a larger machine and give its resources",
        )
        return
    most = _capacity(plan, fitting)
    if most < scaling.min:
        yield failed(
            "workers",
            f"scaling.min = {scaling.min} workers of {asked}, but the nodes have room for {most}",
            "raise max_workers in the cluster file, or lower scaling.min",
        )
    elif most < scaling.upper:
        yield warning(
            "workers",
            f"scaling.max = {scaling.upper} workers of {asked}, but the nodes have room for {most}",
            f"raise max_workers in the cluster file; until then the run has {most} at most",
        )
    else:
        names = ", ".join(group.name for group, _ in fitting)
        yield ok(
            "workers", f"{scaling.min} to {scaling.upper} of {asked}: room for {most} ({names})"
        )
    if needs.get("GPU", 0) == 0 and any(group.gpus for group in plan.workers):
        yield warning(
            "workers",
            "the run's workers use no GPU, but the cluster has GPU nodes",
            "set scaling.resources_per_worker.GPU if the run is to train on GPUs",
        )


def _capacity(plan: ClusterPlan, fitting: list[tuple[NodeGroup, int]]) -> int:
    """Workers that fit when all nodes run; those with room for most workers are launched first."""
    left, total = plan.most, 0
    for group, room in sorted(fitting, key=lambda pair: -pair[1]):
        if group.head:
            total += room
            continue
        nodes = min(group.most, left)
        left -= nodes
        total += nodes * room
    return total

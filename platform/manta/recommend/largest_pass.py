"""The largest micro-batch that fits into a worker: by trial, in processes that may die of it.

Each trial is a Ray task with a worker's resources, which trains some steps of one forward pass.
Where a device is out of memory, or the process is killed for its memory, that size doesn't fit.
A CPU has no memory of its own, so there the process may take its share of what is free.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from manta.cluster.free_memory import free_memory
from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.config.scaling import gpus_of
from manta.elastic.checks.preflight import Checked
from manta.elastic.cluster_state import nodes
from manta.elastic.worker.environment import runtime_env_of
from manta.recommend.measured import MicroBatchFound, PassTried

# Steps of a trial: the first makes the optimizer's state, the others are timed.
STEPS = 4
# Share of the speed of the fastest size that a smaller one may lack to be taken instead.
AS_FAST = 0.97
# Share of the free memory that the processes of a CPU may take together.
CPU_SHARE = 0.8


def largest_pass(
    checked: Checked, most: int, say: Callable[[str], None] = lambda line: None
) -> MicroBatchFound:
    """Find the largest micro-batch, on the Ray that this process is connected to.

    Args:
        checked: the run.
        most: rows of the largest forward pass that the run can have any use for.
        say: called with a line for each trial.

    Raises:
        ConfigError: if not even one row fits.
    """
    first = min(checked.config.train.micro_batch, most)
    tried: dict[int, PassTried] = {}

    def fits(rows: int) -> bool:
        found = tried[rows] = _tried(checked, rows)
        speed = f", {found.samples_per_s:.3g} samples/s" if found.samples_per_s else ""
        say(
            f"micro_batch {rows} {'fits' if found.fits else f'does not fit: {found.reason}'}{speed}"
        )
        return found.fits

    rows = first
    while not fits(rows):
        if rows == 1:
            raise ConfigError(
                "train.micro_batch: not even one sample fits into a worker: use a shorter "
                "train.seq_len, train.activation_checkpointing, parallel.shard, or a smaller model"
            )
        rows = max(1, rows // 2)
    while rows < most and 2 * rows not in tried and fits(min(2 * rows, most)):
        rows = min(2 * rows, most)
    return chosen(list(tried.values()))


def chosen(tried: Sequence[PassTried]) -> MicroBatchFound:
    """The largest size that fits, and the smallest that is about as fast as any."""
    fitting = [each for each in tried if each.fits]
    fastest = max(each.samples_per_s or 0.0 for each in fitting)
    fast = [each.rows for each in fitting if (each.samples_per_s or 0.0) >= AS_FAST * fastest]
    return MicroBatchFound(
        tried=sorted(tried, key=lambda each: each.rows),
        largest=max(each.rows for each in fitting),
        recommended=min(fast),
    )


def _tried(checked: Checked, rows: int) -> PassTried:
    resources = dict(checked.config.scaling.resources_per_worker)
    options: dict[str, Any] = {
        "num_cpus": resources.pop("CPU", 0),
        "num_gpus": resources.pop("GPU", 0),
        "resources": resources or None,
        "max_calls": 1,  # what a trial has of a device goes with its process
        "max_retries": 0,
        "runtime_env": runtime_env_of(checked.config.scaling.resources_per_worker),
    }
    beside = max(1, nodes.room_for(checked.config.scaling.resources_per_worker))
    task = ray.remote(**options)(_train).remote(_of_rows(checked, rows), beside)
    try:
        return PassTried(rows=rows, fits=True, samples_per_s=ray.get(task))
    except (WorkerCrashedError, OutOfMemoryError):
        return PassTried(rows=rows, fits=False, reason="its process was killed")
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, MemoryError):
            return PassTried(rows=rows, fits=False, reason="out of memory")
        raise cause if isinstance(cause, Exception) else error from None


def _of_rows(checked: Checked, rows: int) -> Checked:
    """The run with steps of one forward pass of so many rows."""
    from manta.schedule import Schedule

    config, seq_len = checked.config, checked.config.train.seq_len
    values = config.model_dump(mode="json", by_alias=True)
    values["train"] |= {"micro_batch": rows, "seq_len_warmup": []}
    values["schedule"] = {"horizon": STEPS * rows * seq_len, "lr": 1e-6, "batch": rows}
    changed = RunConfig.model_validate(values)
    schedule = Schedule.resolve(changed.schedule, seq_len)
    return replace(checked.without_shards(), config=changed, schedule=schedule)


def _train(checked: Checked, beside: int) -> float:
    """Train some steps in this process; returns samples a second.

    Raises:
        MemoryError: if there is too little memory.
    """
    from manta.elastic.worker.out_of_memory import is_out_of_memory
    from manta.model import hf_config
    from manta.stream.plan import local_stream
    from manta.train.engine import Engine

    if not gpus_of(checked.config.scaling.resources_per_worker):
        _limit_memory(beside)
    try:
        resolved = hf_config.resolve(checked.config, checked.manifest.vocabulary)
        engine = Engine(checked.config, resolved)
        taken = []
        for batch in local_stream(checked.corpus, checked.schedule, cursor=0, rank=0, world_size=1):
            began = time.perf_counter()
            engine.step(batch).grad_norm.item()
            taken.append(time.perf_counter() - began)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or is_out_of_memory(error) or _no_host_memory(error):
            raise MemoryError("out of memory") from None
        raise
    return checked.schedule.batch_size(0) / min(taken[1:])


def _limit_memory(beside: int) -> None:
    """Let this process take its share of the memory that is free."""
    if free := free_memory():
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        own = _data() + int(free * CPU_SHARE / beside)
        resource.setrlimit(resource.RLIMIT_DATA, (own, hard))


def _data() -> int:
    """Bytes of this process that count against the limit of its data."""
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmData"].split()[0]) * 1024


def _no_host_memory(error: BaseException) -> bool:
    """Whether Torch's allocator of host memory found none."""
    return "DefaultCPUAllocator" in str(error) or "can't allocate memory" in str(error)

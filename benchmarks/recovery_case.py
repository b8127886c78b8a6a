"""One case of `recovery.py` in a process of its own: train, break something, time what follows.

    python benchmarks/recovery_case.py SYSTEM FAULT FOLDER CORPUS

FAULT is `worker` or `node`, or `COUNT-of-STEPS` for `goodput.py`: a worker dies so many times in
so many steps. Writes `result.json` into FOLDER, which holds `tokens.npy` and `model` for the plain
loop.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Before Ray is imported, and for all of its processes.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "platform"), str(HERE)])
sys.path[:0] = [str(ROOT / "platform"), str(HERE)]

import psutil  # noqa: E402
from recovery_log import StepLog, read  # noqa: E402
from recovery_loop import BATCH, CHECKPOINT_EVERY, under_ray_train  # noqa: E402

SEQ_LEN = 128
# Steps before the fault at least; the fault then comes midway between two checkpoints.
SETTLED_STEPS = 25
START_SECONDS, RECOVERY_SECONDS = 180.0, {"worker": 60.0, "node": 150.0}
# What the steps between two deaths may take at most.
GOODPUT_SECONDS = 240.0
# A spare that has imported everything uses less of a core than this.
IDLE_PERCENT = 5.0


@dataclass
class Case:
    """A system in training, as the measurement needs it.

    Attributes:
        folder: of the case.
        lose_node: makes the node with that id die.
        ready: whether the system is as it would be in the middle of a long run.
        parts: of the restart after a fault at that time, in seconds.
    """

    folder: Path
    lose_node: Callable[[str], None] = field(default=lambda node: None)
    ready: Callable[[], bool] = field(default=lambda: True)
    parts: Callable[[float], dict[str, float]] = field(default=lambda fault: {})


def measure(case: Case, fault: str) -> dict[str, Any]:
    """Seconds from the fault to the first step that had never been trained."""
    _wait(lambda: read(case.folder).last >= SETTLED_STEPS and case.ready(), START_SECONDS)
    _wait(lambda: read(case.folder).last % CHECKPOINT_EVERY == CHECKPOINT_EVERY // 2, 60.0)
    victim, group = read(case.folder).newest(rank=1), read(case.folder).group
    began = time.time()
    if fault == "worker":
        os.kill(victim["pid"], signal.SIGKILL)
    else:
        case.lose_node(victim["node"])
    found = _recovered(case.folder, group, RECOVERY_SECONDS[fault])
    if found is None:
        return {"seconds": None}
    again = [
        s for s in read(case.folder).steps if s["group"] != group and s["step"] < found["step"]
    ]
    seconds, parts = found["time"] - began, case.parts(began)
    if parts:
        parts["trained_again"] = seconds - sum(parts.values())
    return {"seconds": seconds, "again": len(again), "parts": parts}


def train_through(case: Case, deaths: int, steps: int) -> dict[str, Any]:
    """What becomes of so many steps if the second worker dies so many times on the way."""
    _wait(lambda: read(case.folder).last >= SETTLED_STEPS and case.ready(), START_SECONDS)
    first = read(case.folder).last
    killed = []
    for death in range(1, deaths + 1):
        due = first + death * steps // (deaths + 1)
        _wait(lambda due=due: read(case.folder).last >= due, GOODPUT_SECONDS)  # type: ignore[misc]
        logged = read(case.folder)
        killed.append({"time": time.time(), "step": logged.last})
        os.kill(logged.newest(rank=1)["pid"], signal.SIGKILL)
        group = logged.group
        _wait(lambda group=group: read(case.folder).group != group, GOODPUT_SECONDS)  # type: ignore[misc]
    _wait(lambda: read(case.folder).last >= first + steps, GOODPUT_SECONDS)
    lines = [line for line in read(case.folder).steps if line["step"] >= first]
    last = next(at for at, line in enumerate(lines) if line["step"] == first + steps)
    return {"killed": killed, "steps": lines[: last + 1]}


def _recovered(folder: Path, old: str, seconds: float) -> dict[str, Any] | None:
    """The first step of a group after `old` that no group had done before; none in time."""
    until = time.time() + seconds
    while time.time() < until:
        steps = read(folder).steps
        # The old group may finish a step after the fault: that is not a recovery.
        before = max(s["step"] for s in steps if s["group"] == old)
        new = [s for s in steps if s["group"] != old and s["step"] > before]
        if new:
            return new[0]
        time.sleep(0.02)
    return None


def _wait(true: Callable[[], bool], seconds: float) -> None:
    until = time.time() + seconds
    while not true():
        if time.time() > until:
            raise TimeoutError("the system did not come to train")
        time.sleep(0.005)


# ------------------------------------------------------------------------- systems


@contextmanager
def torchrun(folder: Path, corpus: Path) -> Iterator[Case]:
    """PyTorch's own launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--max-restarts", "100", str(HERE / "recovery_loop.py"), str(folder)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            yield Case(folder)
        finally:
            process.terminate()


@contextmanager
def ray_train(folder: Path, corpus: Path) -> Iterator[Case]:
    """Ray Train's elastic trainer as it comes."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with _nodes(folder) as lose_node:
        trainer = TorchTrainer(
            under_ray_train,
            train_loop_config={"folder": str(folder)},
            scaling_config=ScalingConfig(num_workers=(1, 2), elastic_resize_monitor_interval_s=5.0),
            run_config=RunConfig(
                name="ray",
                storage_path=str(folder / "runs"),
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
        threading.Thread(target=trainer.fit, daemon=True).start()
        yield Case(folder, lose_node)


@contextmanager
def manta(folder: Path, corpus: Path) -> Iterator[Case]:
    """Manta, observed by the lines of `StepLog`; else it is `manta train`."""
    from manta.config import RunConfig, load
    from manta.elastic.checks.preflight import check, check_model
    from manta.elastic.driver import trainer

    step = BATCH * SEQ_LEN
    overrides = [
        *(f"corpus={corpus}", f"run.storage={folder / 'runs'}", "run.name=case"),
        *(f"schedule.horizon={100_000 * step}", f"schedule.batch={BATCH}", "schedule.lr=1e-3"),
        *(f"checkpoint.every={CHECKPOINT_EVERY * step}", "log.every=0", "eval.every=null"),
        *("scaling.min=1", "scaling.max=2", "wandb.mode=disabled"),
    ]
    os.environ["RECOVERY_FOLDER"] = str(folder)
    trainer.work = observed
    with _nodes(folder) as lose_node:
        config = load(ROOT / "jobs/demo/run.yaml", RunConfig, overrides)
        checked = check_model(check(config))
        run = threading.Thread(target=trainer.train, args=(checked,), daemon=True)
        run.start()
        yield Case(folder, lose_node, _Spares(folder).warm, lambda fault: _parts(folder, fault))


def observed(config: dict[str, Any]) -> None:
    """Manta's own work, with a line for each step."""
    from manta.elastic.messages import group_start
    from manta.elastic.worker import mail_reporter, train_function

    log = StepLog(
        Path(os.environ["RECOVERY_FOLDER"]), int(os.environ["RANK"]), group_start.current().node
    )
    reporter = mail_reporter.MailReporter
    # Once in a process, which may be in several groups.
    stepped = getattr(reporter.stepped, "unobserved", reporter.stepped)

    def logged(self: Any, state: Any) -> None:
        log.stepped(state.step)
        stepped(self, state)

    logged.unobserved = stepped  # type: ignore[attr-defined]
    reporter.stepped = logged  # type: ignore[method-assign]
    train_function.train(config["assignment"])


class _Spares:
    """Sees in the list of processes whether both spares are up and have nothing more to do."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._seen: dict[int, psutil.Process] = {}
        self._looked = 0.0

    def warm(self) -> bool:
        """Whether they are; looks every two seconds."""
        if time.time() - self._looked < 2.0:
            return False
        self._looked = time.time()
        training = {train_function["pid"] for train_function in read(self._folder).workers}
        found = {p.pid: p for p in _ray_workers() if p.pid not in training}
        self._seen = {pid: self._seen.get(pid, process) for pid, process in found.items()}
        # The share of a core since the last look; zero at the first look at a process.
        shares = [process.cpu_percent() for process in self._seen.values()]
        return len(shares) == 2 and all(0.0 < share < IDLE_PERCENT for share in shares)


def _ray_workers() -> list[psutil.Process]:
    """The processes of Ray Train's workers below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _parts(folder: Path, fault: float) -> dict[str, float]:
    """Where the time went, as Manta's record has it once the first step is told."""
    until = time.time() + 5.0
    while time.time() < until:
        group = json.loads((folder / "runs/case/run.json").read_text())["groups"][-1]
        group_start = group["start"]
        if (group["noticed"] or 0.0) > fault and "data_and_first_step" in group_start:
            return {"detect": group["noticed"] - fault, **group_start}
        time.sleep(0.2)
    return {}


@contextmanager
def _nodes(folder: Path) -> Iterator[Callable[[str], None]]:
    """A head without CPUs and two nodes with one each; gives what makes a node die."""
    import ray
    from ray.cluster_utils import Cluster

    # Sockets lie below it, and their paths may be 107 characters long: the folder has a short name.
    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": str(folder / "ray")}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(2))}
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield lambda node: cluster.remove_node(nodes[node], allow_graceful=False)
    finally:
        # Not `ray.shutdown`: the training's thread would start a Ray of its own at its next call.
        cluster.shutdown()


SYSTEMS = {"manta": manta, "ray": ray_train, "ray-0.25": ray_train, "torchrun": torchrun}


def main(system: str, fault: str, folder: Path, corpus: Path) -> None:
    """Measure one case."""
    if system == "ray-0.25":
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.25"
    with SYSTEMS[system](folder, corpus) as case:
        deaths, of, steps = fault.partition("-of-")
        result = train_through(case, int(deaths), int(steps)) if of else measure(case, fault)
        (folder / "result.json").write_text(json.dumps(result))
    # The training's thread may still wait for a Ray that is gone.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).resolve(), Path(sys.argv[4]).resolve())

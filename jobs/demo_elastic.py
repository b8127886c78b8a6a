"""The demo on a cluster that changes: a worker dies, a node is removed, another one is added.

    python jobs/demo_elastic.py [KEY=VALUE ...]

Trains the demo's model twice on a Ray of several nodes in this machine, from the same config
and seed: once undisturbed, once with 2 → 1 → 2 workers. Then it proves by the ledger which samples
the disturbed run was trained on, and compares the losses of every step and the weights, which are
the same to the bit by `train.reproducible`. Overrides change jobs/demo/run.yaml. Both runs start
anew each time. Exits with 1 if the ledger is not what config and corpus give, or anything differs.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "platform"))
# Set before Ray is imported; the nodes of this demo need no token.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Keeps the thread of an interrupted training from starting a Ray of its own.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

from rich.console import Console  # noqa: E402

from manta.cluster.session import ray_session  # noqa: E402
from manta.config import CorpusConfig, MantaError, RunConfig, load  # noqa: E402
from manta.config.run import Fault  # noqa: E402
from manta.elastic.checks.same_weights import compare_weights  # noqa: E402
from manta.record import number_format  # noqa: E402
from manta.record.history import Tail  # noqa: E402
from manta.record.run_state import RunState, read_state  # noqa: E402
from manta.show.report.run_report import write_report  # noqa: E402
from manta.storage.run_folder import CONFIG, METRICS  # noqa: E402

CALM, DISTURBED = "demo-elastic-calm", "demo-elastic"
# Long enough for nodes to change during the run, short enough to wait for.
SHORT = [
    *("schedule.horizon=200K", "checkpoint.every=20K", "eval.every=100K", "eval.tokens=20K"),
    *("scaling.min=1", "scaling.max=2", "scaling.settle=3", "log.every=0", "wandb.mode=disabled"),
    *("train.reproducible=any_world_size", "train.micro_batch=4"),
]
# Fractions of the run after which a worker is killed, a node drained, and a node added.
KILL, DRAIN, ADD = 0.25, 0.40, 0.47
NOTICE_SECONDS = 30.0
# Start warm processes early, as this run takes minutes only.
WARM_AFTER_SECONDS = 2.0
# Largest difference of losses without `train.reproducible`. Another world size then changes the
# order of reductions, which makes some 1e-5 here; a mistake makes much more.
MOST_DIFFERENCE = 1e-3

console = Console(highlight=False)


def main(overrides: list[str]) -> int:
    """Run the demo; returns the exit status."""
    began = time.time()
    config = load(ROOT / "jobs/demo/run.yaml", RunConfig, [*SHORT, *overrides])
    calm, disturbed = _named(config, CALM), _named(config, DISTURBED)
    with _pool() as pool:
        _prepare()
        console.rule("undisturbed, two workers")
        _train(calm)
        console.rule("a worker dies, a node goes, a node comes")
        _train(_with_a_kill(disturbed), pool)
    folder = Path(config.run.storage)
    good = show(folder / DISTURBED, folder / CALM)
    console.rule(f"done in {time.time() - began:.0f} s")
    return 0 if good else 1


def _named(config: RunConfig, name: str) -> RunConfig:
    """The config under a name of this demo, whose earlier run is removed."""
    shutil.rmtree(Path(config.run.storage) / name, ignore_errors=True)
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def _with_a_kill(config: RunConfig) -> RunConfig:
    """The config with a SIGKILL for the second worker."""
    from manta.schedule import Schedule

    schedule = Schedule.resolve(config.schedule, config.train.seq_len)
    step = next(
        step.number
        for step in map(schedule.step, range(schedule.steps))
        if step.tokens_after >= KILL * config.schedule.horizon
    )
    return config.model_copy(update={"faults": [Fault(kind="kill", step=step, rank=1)]})


# ------------------------------------------------------------------------- the pool


class Pool:
    """Nodes of one CPU each, in this machine. For the main thread alone, as Ray has it."""

    def __init__(self, cluster: Any):
        self._cluster = cluster
        self._nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

    def drain(self) -> None:
        """Announce the end of the last node, as a provider does for a spot node."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        GcsClient(address=self._cluster.address).drain_node(
            self._nodes[-1].node_id,
            autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
            "a spot node goes",
            int((time.time() + NOTICE_SECONDS) * 1000),
        )

    def remove(self) -> None:
        """Take the last node away."""
        self._cluster.remove_node(self._nodes.pop())

    def add(self) -> None:
        """A fresh node comes."""
        self._nodes.append(self._cluster.add_node(num_cpus=1))


@contextmanager
def _pool() -> Iterator[Pool]:
    """A Ray of three local nodes, the first of which is the head and runs no worker."""
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    # Ray puts its sockets below this folder, and a socket's path may have 107 characters at most.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        pool = Pool(cluster)
        with ray_session(cluster.address):
            yield pool
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------- the runs


def _prepare() -> None:
    from manta.corpus.prepare import prepare

    console.rule("manta prepare jobs/demo/corpus.yaml")
    prepare(load(ROOT / "jobs/demo/corpus.yaml", CorpusConfig))


def _train(config: RunConfig, pool: Pool | None = None) -> None:
    """Train to the end; with a pool, change it during the run."""
    from manta.elastic.checks.preflight import absolute, check, check_model
    from manta.elastic.driver import trainer

    trainer.WARM_AFTER_SECONDS = WARM_AFTER_SECONDS
    checked = check_model(check(absolute(config)))
    failures: list[BaseException] = []

    def train() -> None:
        try:
            trainer.train(checked)
        except BaseException as error:
            failures.append(error)

    # The pool changes from the main thread, so the training has another one.
    run = threading.Thread(target=train, daemon=True)
    run.start()
    if pool is not None:
        _disturb(run, _Progress(checked.run_dir, config.schedule.horizon), pool)
    run.join()
    if failures:
        raise failures[0]


class _Progress:
    """Progress of a run, from its history."""

    def __init__(self, run_dir: Path, horizon: int):
        self._rows, self._horizon = Tail(run_dir / METRICS), horizon
        self.share, self.workers = 0.0, 0

    def look(self) -> None:
        """Read new rows."""
        for row in self._rows.rows():
            self.share = row["tokens"] / self._horizon
            self.workers = row.get("world_size", self.workers)


def _disturb(run: threading.Thread, progress: _Progress, pool: Pool) -> None:
    """Change the pool while the run trains; the kill is in its config."""

    def wait(reached: Any) -> None:
        while run.is_alive() and not reached():
            time.sleep(0.2)
            progress.look()

    wait(lambda: progress.share >= DRAIN)
    pool.drain()
    wait(lambda: progress.workers == 1)
    pool.remove()
    wait(lambda: progress.share >= ADD)
    pool.add()


# --------------------------------------------------------------------- what came of it


def show(disturbed: Path, calm: Path) -> bool:
    """Compare the two runs and print whether they are the same training."""
    from manta.record.verify_run import verify

    console.rule("is it the same training?")
    state = read_state(disturbed)
    report = write_report(disturbed, against=calm)
    steps, difference = largest_difference(disturbed, calm)
    for group in state.groups:
        console.print(_group_line(group), soft_wrap=True)
    console.print(f"trained again    {trained_again(state)}")
    console.print(f"losses           {steps} steps, largest relative difference {difference:.1e}")
    exact = load(disturbed / CONFIG, RunConfig).train.reproducible is not None
    weights = compare_weights(disturbed, calm)
    for which, found in zip(("disturbed", "undisturbed"), weights.weights, strict=True):
        console.print(f"weights          sha256 {found}  {which}", soft_wrap=True)
    try:
        proof, proven = "\n".join(verify(disturbed).lines()), True
    except MantaError as error:
        proof, proven = str(error), False
    console.print(proof, soft_wrap=True)
    console.print(f"report           {report}", soft_wrap=True)
    allowed = 0.0 if exact else MOST_DIFFERENCE
    same = steps == state.total_steps and difference <= allowed and (weights.equal or not exact)
    console.print(f"verdict          {_verdict(proven, same, exact)}", soft_wrap=True)
    return proven and same


def _group_line(group: Any) -> str:
    workers = f"{group.world_size} worker{'' if group.world_size == 1 else 's'}"
    ended = group.reason or "the end of the run"
    return f"{workers:16} steps {group.step + 1} to {group.last_step}, until {ended}"


def trained_again(state: RunState) -> str:
    """Steps and tokens that were lost at restarts and trained again."""
    groups = zip(state.groups, state.groups[1:], strict=False)
    steps = sum(before.last_step - after.step for before, after in groups)
    return f"{steps} steps, {number_format.count(state.totals.tokens_again)} tokens"


def largest_difference(one: Path, other: Path) -> tuple[int, float]:
    """The number of steps that both runs have, and the largest relative difference of losses."""
    losses = [
        {row["step"]: row["loss"] for row in Tail(run_dir / METRICS).rows() if "loss" in row}
        for run_dir in (one, other)
    ]
    both = sorted(losses[0].keys() & losses[1].keys())
    differences = [abs(losses[0][step] / losses[1][step] - 1) for step in both]
    return len(both), max(differences, default=float("inf"))


def _verdict(proven: bool, same: bool, exact: bool) -> str:
    samples = "the samples are exactly those of the config" if proven else "THE LEDGER IS WRONG"
    what = (
        "losses and weights are the undisturbed run's, to the bit"
        if exact
        else ("the losses are the undisturbed run's")
    )
    return f"{samples}; {what if same else 'LOSSES OR WEIGHTS DIFFER'}"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except MantaError as error:
        sys.exit(f"error: {error}")

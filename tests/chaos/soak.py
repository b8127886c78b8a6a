"""Random faults on real runs, for minutes or hours: does every run end exact?

    make soak ARGS="--minutes 20 --seed 7"

One run after the other trains on a local cluster of several nodes, while processes, nodes,
the driver, checkpoints and the disk come to harm at random times. Each must end with a
ledger that verifies, each step once in its history, and the losses of an undisturbed run. Every
second run is one with `train.reproducible`: its losses and weights are the same to the bit.
The same seed gives the same faults in the same order; when exactly they hit is the machine's
business. The exit code is 1 if any run was not exact, and its folder is kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Ray reads it when it is imported.
os.environ["RAY_AUTH_MODE"] = "disabled"

import plain_runs
from faulty_cluster import Driver, Nodes, Run
from made_corpus import write_corpus
from small_disk import NoMounts, SmallDisk
from tiny_config import STEP, run_config

from manta.config import MantaError, RunConfig
from manta.elastic.checks.preflight import check
from manta.record.verify_run import verify
from manta.state.checkpoint_files import name_of, newest
from manta.state.weights_digest import digest_of
from manta.storage.run_folder import CHECKPOINTS

STEPS = 600
MOST_NODES = 3
PAUSE = (1.0, 6.0)  # seconds between two faults, from the first new step on
AT_ONCE = 0.1  # chance, at each look, that a fault does not wait for it: it hits a restart
FULL = (3.0, 8.0)  # seconds that the disk is full
NOTICE = 20.0  # seconds from the notice that a node goes to its end
STILL = 180.0  # seconds without a step that are no restart, however slow the machine
TOLERANCE = 1e-5
# What may end a run for good, until the command is given again.
RESUMABLE = ("can't be saved", "disk is full", "No space left", "without progress")


def main() -> int:
    """Run the soak; returns the exit code."""
    arguments = _arguments()
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak", dir="/tmp"))
    soak = Soak(folder, random.Random(arguments.seed))
    try:
        soak.go_on(time.time() + 60 * arguments.minutes)
    finally:
        soak.end()
    print(soak.table())
    if soak.violations:
        print(f"\nNot exact; reproduce with --seed {arguments.seed}. Runs: {folder}")
        print("\n".join(soak.violations))
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Random faults on real runs.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    return parser.parse_args()


class Soak:
    """Runs, one after the other, and what became of them.

    Args:
        folder: for everything.
        dice: where chance comes from.
    """

    def __init__(self, folder: Path, dice: random.Random):
        self._folder, self._dice = folder, dice
        self.violations: list[str] = []
        self._injected, self._survived = Counter[str](), Counter[str]()
        self._again: list[int] = []
        self._restarts: list[float] = []
        self._runs = self._resumed = self._equal = 0
        self._corpus = folder / "corpus"
        splits: Any = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 30]}
        write_corpus(self._corpus, splits, vocab_size=61)
        self._undisturbed = {exact: self._train_undisturbed(exact) for exact in (False, True)}
        self._disk = self._small_disk()
        self._nodes = Nodes(Path(tempfile.mkdtemp(prefix="ray", dir="/tmp")))
        self._driver = Driver(self._nodes.cluster.address, folder / "driver.log")

    def _train_undisturbed(self, exact: bool) -> tuple[dict[int, float], str]:
        """Losses and digest of the weights of a run of one rank."""
        name = {"run": {"name": f"exact-{exact}"}}
        config = run_config(
            self._folder / "undisturbed", self._corpus, **_horizon(), **_exact(exact), **name
        )
        checked = check(RunConfig.model_validate(config))
        losses = plain_runs.losses(plain_runs.train(checked))
        return losses, digest_of(newest(checked.run_dir / CHECKPOINTS))

    def _small_disk(self) -> SmallDisk | None:
        try:
            return SmallDisk(self._folder / "runs", "64m")
        except NoMounts as error:
            print(f"without full disks: {error}", flush=True)
            return None

    def go_on(self, until: float) -> None:
        """Train runs until the time is over; the last one is brought to its end."""
        while self._runs == 0 or time.time() < until:
            self._runs += 1
            episode = Episode(self._config(), self._nodes, self._driver, self._disk, self._dice)
            try:
                episode.play(until)
                self._check(episode)
            except (AssertionError, MantaError) as error:
                self._violated(episode, error)
                return

    def _config(self) -> dict[str, Any]:
        dice, exact = self._dice, self._is_exact
        out_of_memory = {"kind": "out_of_memory", "rank": 0, "step": dice.randrange(30, STEPS)}
        faults = [
            {"kind": "slow", "attempt": None, "seconds": dice.choice([0.03, 0.06])},
            {"kind": "kill", "rank": 0, "at": "checkpoint", "attempt": dice.randint(2, 4)},
            {"kind": "kill", "rank": 0, "at": "snapshot", "attempt": dice.randint(1, 4)},
            # Smaller forward passes would be other sums.
            *([] if exact else [out_of_memory]),
        ]
        sections: dict[str, Any] = {
            **_horizon(),
            **_exact(exact),
            "run": {"name": f"run-{self._runs}", "storage": str(self._folder / "runs"), "seed": 3},
            "checkpoint": {
                "every": dice.choice([20, 50]) * STEP,
                "keep": 3,
                "snapshot_every": dice.choice([None, 0, 1, 10]),
            },
            "scaling": {
                "min": 1,
                "max": MOST_NODES,
                "resources_per_worker": {"CPU": 1},
                "settle": 2.0,
                "hang_timeout": 5.0,
                "spares": dice.choice([0, 1]),
            },
            "wandb": {"mode": "disabled"},
        }
        config = run_config(self._folder / "runs", self._corpus, **sections)
        return {**config, "faults": faults}

    @property
    def _is_exact(self) -> bool:
        """Whether the current run is one with `train.reproducible`."""
        return self._runs % 2 == 0

    def _check(self, episode: Episode) -> None:
        run = episode.run
        self._injected.update(episode.injected)
        losses = run.losses()
        assert sorted(losses) == list(range(1, STEPS + 1)), "the history has gaps"
        expected, weights = self._undisturbed[self._is_exact]
        for step, loss in losses.items():
            far = abs(loss - expected[step]) / abs(expected[step])
            allowed = 0.0 if self._is_exact else TOLERANCE
            assert far <= allowed, f"loss of step {step} is off by {far:.1e}"
        if self._is_exact:
            found = digest_of(newest(run.dir / CHECKPOINTS))
            assert found == weights, f"the weights are {found}, undisturbed they are {weights}"
            self._equal += 1
        consumed = verify(run.dir).consumed
        assert consumed.steps == STEPS, consumed
        self._survived.update(episode.injected)
        self._resumed += episode.resumed
        self._again += [max(0, steps) for steps in run.again()]
        self._restarts += [_seconds(group) for group in run.record()["groups"][1:]]
        sizes = " → ".join(map(str, consumed.world_sizes))
        faults = sum(episode.injected.values())
        how = "the same to the bit" if self._is_exact else "exact"
        print(f"{run.dir.name}: {how} after {faults} faults; workers {sizes}", flush=True)
        if self._disk is not None:
            shutil.rmtree(run.dir)

    def _violated(self, episode: Episode, error: Exception) -> None:
        self._injected.update(episode.injected)
        told = "\n  ".join(episode.told)
        self.violations.append(f"{episode.run.dir}: {error}\n  {told}")
        kept = self._folder / "kept"
        shutil.copytree(episode.run.dir, kept / episode.run.dir.name, dirs_exist_ok=True)

    def end(self) -> None:
        """Clean up."""
        self._driver.kill()
        self._nodes.cluster.shutdown()
        if self._disk is not None:
            self._disk.remove()

    def table(self) -> str:
        """What happened, for people."""
        lines = [f"{'fault':32}{'injected':>10}{'survived':>10}"]
        for kind, count in sorted(self._injected.items()):
            lines.append(f"{kind:32}{count:>10}{self._survived[kind]:>10}")
        median = statistics.median(self._restarts) if self._restarts else 0.0
        lines += [
            "",
            f"runs                   {self._runs}, {self._equal} of them with equal weights",
            f"worker groups again    {len(self._restarts)}, median {median:.1f} s",
            f"steps trained again    {sum(self._again)} of {self._runs * STEPS}",
            f"command given again    {self._resumed} times after the run had given up",
        ]
        return "\n".join(lines)


class Episode:
    """One run, and the faults that hit it."""

    def __init__(
        self,
        config: dict[str, Any],
        nodes: Nodes,
        driver: Driver,
        disk: SmallDisk | None,
        dice: random.Random,
    ):
        self.run = Run(driver, config)
        self.injected = Counter[str]()
        self.told: list[str] = []
        self.resumed = 0
        self._nodes, self._driver, self._disk, self._dice = nodes, driver, disk, dice
        self._leaving: list[tuple[float, Any]] = []
        self._planned = nodes.planned_faults()
        self._rows, self._rows_before, self._moved = 0, 0, time.time()
        self._faults: list[Callable[[], str | None]] = [
            self._kill_worker,
            self._kill_worker,
            self._kill_worker,
            self._stop_worker,
            self._kill_node,
            self._add_node,
            self._add_node,
            self._drain_node,
            self._kill_driver,
            self._kill_driver_and_damage,
            self._fill_disk,
        ]

    def play(self, until: float) -> None:
        """Train to the end; no more faults after `until`."""
        self._nodes.have(2)
        self.run.begin()
        while not self._ended(self._dice.uniform(*PAUSE)):
            self._take_nodes_away()
            if time.time() < until and self._is_time():
                fault = self._dice.choice(self._faults)
                if (what := fault()) is not None:
                    self._note(what)
        self._count_planned()
        self._take_nodes_away(at_once=True)

    def _ended(self, seconds: float) -> bool:
        self._watch()
        if not self._driver.has_result(seconds):
            return False
        answer = self._driver.result()
        if answer["status"] == "finished":
            return True
        assert any(why in answer["error"] for why in RESUMABLE), answer["error"]
        self.told.append(f"{_now()} gave up: {answer['error']}")
        self.resumed += 1
        self.run.begin()
        return False

    def _is_time(self) -> bool:
        """Whether the last fault was survived, or is to be followed by another at once."""
        if self._rows > self._rows_before or self._dice.random() < AT_ONCE:
            self._rows_before = self._rows
            return True
        return False

    def _watch(self) -> None:
        """Refuse a run that stands still."""
        rows = len(self.run.rows())
        if rows > self._rows:
            self._rows, self._moved = rows, time.time()
        assert time.time() - self._moved < STILL, f"no new step for {STILL:.0f} s"

    def _note(self, what: str, detail: str = "") -> None:
        self.injected[what] += 1
        steps = self.run.rows()
        at = steps[-1]["step"] if steps else 0
        self.told.append(f"{_now()} step {at}: {what} {detail}")
        print(f"  {self.told[-1]}", flush=True)

    def _count_planned(self) -> None:
        self.injected.update(self._nodes.planned_faults() - self._planned)

    # ------------------------------------------------------------------- faults

    def _kill_worker(self) -> str | None:
        return self._signal(signal.SIGKILL, "worker killed")

    def _stop_worker(self) -> str | None:
        return self._signal(signal.SIGSTOP, "worker stopped")

    def _signal(self, number: int, what: str) -> str | None:
        found = workers(self._nodes)
        if not found:
            return None
        try:
            os.kill(self._dice.choice(found), number)
        except ProcessLookupError:
            return None
        return what

    def _kill_node(self) -> str | None:
        if len(self._nodes.nodes) < 2:
            return None
        self._nodes.kill()
        return "node killed"

    def _add_node(self) -> str | None:
        if len(self._nodes.nodes) >= MOST_NODES:
            return None
        self._nodes.add()
        return "node added"

    def _drain_node(self) -> str | None:
        if len(self._nodes.nodes) < 2:
            return None
        node = self._nodes.nodes[-1]
        self._nodes.drain(NOTICE)
        self._leaving.append((time.time() + NOTICE, node))
        return "node drained"

    def _take_nodes_away(self, at_once: bool = False) -> None:
        for deadline, node in list(self._leaving):
            if at_once or time.time() > deadline:
                self._leaving.remove((deadline, node))
                self._nodes.cluster.remove_node(node, allow_graceful=False)

    def _kill_driver(self) -> str | None:
        self._driver.kill()
        self.run.begin()
        return "driver killed"

    def _kill_driver_and_damage(self) -> str | None:
        self._driver.kill()
        kept = self.run.checkpoints()
        if len(kept) > 1:
            data = next((self.run.dir / "checkpoints" / name_of(kept[-1])).glob("*.distcp"))
            data.write_bytes(data.read_bytes()[:-100])
        self.run.begin()
        return "checkpoint damaged" if len(kept) > 1 else "driver killed"

    def _fill_disk(self) -> str | None:
        if self._disk is None:
            return None
        self._disk.fill()
        try:
            time.sleep(self._dice.uniform(*FULL))
            if self._dice.random() < 0.3 and (killed := self._kill_worker()):
                self._note(killed, "while the disk is full")
                time.sleep(self._dice.uniform(*FULL))
        finally:
            self._disk.free()
        return "disk full"


def workers(nodes: Nodes) -> list[int]:
    """The processes on the cluster's nodes that train, or wait to."""
    raylets = {
        info.process.pid for node in nodes.nodes for info in node.all_processes.get("raylet", [])
    }
    return sorted(pid for pid in _children(raylets) if "RayTrainWorker" in _title(pid))


def _children(parents: set[int]) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) in parents:
            found.append(int(folder.name))
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _seconds(group: dict[str, Any]) -> float:
    """What the start of a group took."""
    return sum(group["start"].values())


def _exact(exact: bool) -> dict[str, Any]:
    if not exact:
        return {}
    return {"train": {"reproducible": "any_world_size", "micro_batch": 2}}


def _horizon() -> dict[str, Any]:
    return {"schedule": {"horizon": STEPS * STEP}}


def _now() -> str:
    return time.strftime("%H:%M:%S")


if __name__ == "__main__":
    sys.exit(main())

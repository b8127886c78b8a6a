"""`ray up` on three hosts with an sshd each, and a training that loses one of them for a while."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosts import SHARED, Host, Hosts, missing
from launched import Launched, wait_until

from manta.corpus.manifest import Split

# The demo's own config, with a corpus of a few samples, a model that costs nothing, twenty steps
# a second and no end: the test ends it. It may grow as soon as it runs.
DEMO = [
    *("python", "jobs/train.py", "jobs/demo/run.yaml"),
    *(f"corpus={SHARED}/corpus", f"run.storage={SHARED}/runs"),
    *("scaling.min=1", "scaling.max=2", "scaling.settle=1"),
    *("schedule.horizon=1B", "eval.every=1B", "eval.tokens=1K"),
    *("model.sizes.hidden_size=24", "model.sizes.intermediate_size=32"),
    *("model.sizes.num_hidden_layers=1", "faults=[{kind: slow, attempt: null}]"),
]


@pytest.fixture
def three(make_corpus) -> Iterator[Hosts]:
    """Three hosts that share a folder with a corpus in it."""
    if why_not := missing():
        pytest.skip(why_not)
    folder = Path(tempfile.mkdtemp(prefix="hosts", dir="/tmp"))
    made = Hosts(["head", "first", "second"], folder)
    try:
        splits: dict[Split, Any] = {"train": [[500] * 20], "validation": [[500] * 4]}
        make_corpus(made.shared / "corpus", splits)
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


class Run:
    """What the run's own files say of it."""

    def __init__(self, folder: Path):
        self._folder = folder

    def record(self) -> dict[str, Any]:
        """What `run.json` says; nothing before there is one."""
        try:
            found: dict[str, Any] = json.loads((self._folder / "run.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def step(self) -> int:
        """The newest step in the history."""
        try:
            rows = (self._folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        return max((json.loads(row)["step"] for row in rows if row.endswith("\n")), default=0)

    def trains_with(self, workers: int, after: int = 0) -> bool:
        """Whether a group of so many workers, begun after that many others, has got further."""
        groups = self.record().get("groups", [])
        if len(groups) <= after or groups[-1]["world_size"] != workers:
            return False
        return self.step() > max(groups[-1]["step"], *(one["last_step"] for one in groups[:-1]), 0)

    def groups(self) -> int:
        """How many worker groups there were."""
        return len(self.record()["groups"])


def processes_of_ray(host: Host) -> list[str]:
    """What of Ray still runs on a host, its launcher's connections aside."""
    return [line for line in host.processes() if "ray" in line and not line.startswith("sshd")]


def test_a_host_is_lost_and_comes_back(three: Hosts, tmp_path: Path) -> None:
    cluster = Launched(three, tmp_path / "home")
    try:
        survive_a_cut(three, cluster)
    except BaseException:
        print(cluster.told())
        raise
    finally:
        cluster.close()


def survive_a_cut(three: Hosts, cluster: Launched) -> None:
    head, kept, lost = three
    run = Run(three.shared / "runs" / "demo")

    with measured("ray up to the first step"):
        cluster.up()
        cluster.open_tunnel()
        cluster.submit(*DEMO)
        wait_until(lambda: run.step() >= 1, "the first step is done")
    assert cluster.refuses_strangers()
    wait_until(lambda: run.trains_with(2), "two workers train")
    assert cluster.held() == {kept.address, lost.address}

    groups = run.groups()
    lost.cut()
    with measured("cut link until Ray gives the host up"):
        with measured("cut link to the next step"):
            wait_until(lambda: run.trains_with(1, after=groups), "the run goes on without it")
        wait_until(lambda: lost.address not in cluster.alive(), "Ray gives the host up")

    groups = run.groups()
    lost.heal()
    with measured("healed link to growth"):
        with measured("healed link to Ray on the host"):
            wait_until(lambda: lost.address in cluster.alive(), "Ray is on the host again")
        wait_until(lambda: run.trains_with(2, after=groups), "the run has grown again")
    assert cluster.held() == {kept.address, lost.address}

    cluster.stop()
    assert run.record()["status"] == "interrupted"
    said = cluster.execute(f"python -m manta.cli verify {SHARED}/runs/demo")
    assert "the ledger is what config and manifest give" in said

    with measured("ray down to the last process of Ray"):
        cluster.down()
        for host in (head, kept, lost):
            wait_until(lambda host=host: not processes_of_ray(host), "no process of Ray is left")


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Say how long something took; nothing is asserted of it."""
    began = time.monotonic()
    yield
    print(f"{what:<37}{time.monotonic() - began:6.1f} s", flush=True)

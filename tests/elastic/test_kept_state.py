"""The engine with a keeper's memory: a run that dies goes on from its last snapshot."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress

import ray
from plain_runs import engine_of, ledger, loop_of, losses, streams_of
from tiny_config import run_config

from manta.config import RunConfig
from manta.elastic.checks.preflight import check
from manta.elastic.snapshot_memory.keeper import open_keeper
from manta.elastic.snapshot_memory.keeper_vault import KeeperVault


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 300  # it only ends what hangs
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_goes_on_from_the_keepers_memory(ray_local, tmp_path, make_corpus) -> None:
    keepers = {"here": open_keeper(ray.get_runtime_context().get_node_id())}
    make_corpus(tmp_path / "corpus", {"train": [[17] * 60]}, vocab_size=61)
    config = run_config(
        tmp_path,
        tmp_path / "corpus",
        checkpoint={"snapshot_every": 2},
    )
    run = check(RunConfig.model_validate(config))
    run.run_dir.mkdir()

    def go(attempt: int, dies_after: int | None = None) -> list[dict]:
        vault = KeeperVault(keepers, "here", 0)

        def streams(cursor: int):
            for batch in streams_of(run)(cursor):
                yield batch
                if batch.step.number == 1:
                    wait_until(lambda: vault.free(1))  # the memory is there before step 2
                if batch.step.number == dies_after:
                    wait_until(vault.whole)
                    raise InterruptedError

        with suppress(InterruptedError):
            loop_of(run, engine_of(run), tmp_path / "rows", attempt, vault).run(streams)
        return [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]

    go(1, dies_after=5)
    rows = go(2)
    sources = [(row["source"], row["resumed"]) for row in rows if "source" in row]
    assert sources[0] == ("start", 0)
    assert sources[1][0] == "snapshot"
    assert 2 <= sources[1][1] <= 5
    assert sorted(losses(rows)) == list(range(1, 13))
    assert [row["step"] for row in ledger(run)] == list(range(1, 13))

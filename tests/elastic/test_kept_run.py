"""The engine with a keeper's memory: a run that dies goes on from its last snapshot."""

from __future__ import annotations

import json
from contextlib import suppress

import ray
from plain_runs import engine_of, ledger, loop_of, losses, streams_of
from tiny_config import STEP, run_config

from manta.config import RunConfig
from manta.elastic.keeper import KeeperVault, open_keeper
from manta.elastic.preflight import check


def test_a_run_goes_on_from_the_keepers_memory(ray_local, tmp_path, make_corpus) -> None:
    keepers = {"here": open_keeper(ray.get_runtime_context().get_node_id())}
    make_corpus(tmp_path / "corpus", {"train": [[17] * 60]}, vocab_size=61)
    config = run_config(
        tmp_path,
        tmp_path / "corpus",
        schedule={"horizon": 200 * STEP},
        checkpoint={"snapshot_every": 2},
    )
    run = check(RunConfig.model_validate(config))
    run.run_dir.mkdir()

    def go(attempt: int, until_snapshot: bool) -> list[dict]:
        vault = KeeperVault(keepers, "here", 0)

        def streams(cursor: int):
            for batch in streams_of(run)(cursor):
                yield batch
                if until_snapshot and vault.whole():
                    raise InterruptedError

        with suppress(InterruptedError):
            loop_of(run, engine_of(run), tmp_path / "rows", attempt, vault).run(streams)
        return [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]

    go(1, until_snapshot=True)
    rows = go(2, until_snapshot=False)
    sources = [(row["source"], row["resumed"]) for row in rows if "source" in row]
    assert sources[0] == ("start", 0)
    assert sources[1][0] == "snapshot"
    assert 0 < sources[1][1] < 200
    assert sorted(losses(rows)) == list(range(1, 201))
    assert [row["step"] for row in ledger(run)] == list(range(1, 201))

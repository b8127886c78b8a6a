"""A pause leaves every rank at the same step, and costs nothing of the run."""

from __future__ import annotations

import json
from pathlib import Path

import plain_runs
import torch
from plain_runs import engine_of, ledger, loop_of, losses, streams_of

from manta.elastic.checks.preflight import Checked
from manta.stream.plan import RankBatch
from manta.train.pause import Agreement, Pause, PauseSwitch


def test_the_most_urgent_request_counts() -> None:
    switch = PauseSwitch()
    assert switch.votes() == [0, 0, 0]
    switch.ask(Pause.LEAVE)
    switch.ask(Pause.REGROUP)
    votes = torch.tensor(switch.votes()) + torch.tensor([1, 0, 0])
    assert Agreement(torch.device("cpu")).after(votes) == Pause.LEAVE


def test_an_accelerator_reads_votes_late_but_none_is_lost() -> None:
    agreement = Agreement(torch.device("cuda"))
    votes = [torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0])]
    votes += [torch.tensor([0, 0, 0])] * 2
    assert [agreement.after(v) for v in votes] == [0, 0, 0, Pause.STOP, 0]


def _ask_once(checked: Checked, rows: Path, attempt: int) -> None:
    """One rank; the second of two asks for a pause while it waits for its third batch."""
    engine = engine_of(checked)
    base = streams_of(checked, engine.ranks.rank, engine.ranks.world_size)

    def streams(cursor: int):  # type: ignore[no-untyped-def]
        for batch in base(cursor):
            assert isinstance(batch, RankBatch)
            if attempt == 1 and engine.ranks.rank == 1 and batch.step.number == 3:
                engine.pause.ask(Pause.STOP)
            yield batch

    outcome = loop_of(checked, engine, rows, attempt).run(streams)
    assert outcome == ("paused" if attempt == 1 else "finished")


def test_all_ranks_leave_at_the_same_step(checked) -> None:
    whole = checked({"run.name": "whole"})
    paused = checked({"run.name": "paused"})
    undisturbed = plain_runs.train(whole, 2)
    paused.run_dir.mkdir(parents=True)
    rows = paused.run_dir / "rows.jsonl"
    plain_runs.run_ranks(2, _ask_once, paused, rows, 1)
    assert [row["step"] for row in ledger(paused)] == [1, 2, 3]
    plain_runs.run_ranks(2, _ask_once, paused, rows, 2)
    told = [json.loads(line) for line in rows.read_text().splitlines()]
    assert losses(told) == losses(undisturbed)
    assert [row["digest"] for row in ledger(paused)] == [r["digest"] for r in ledger(whole)]

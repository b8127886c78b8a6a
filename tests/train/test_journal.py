"""Rows go with a checkpoint until the driver has them on disk."""

from __future__ import annotations

from plain_runs import engine_of

from manta.state.checkpoint_files import read_rows
from manta.state.journal import Journal
from manta.stream.ledger import Ledger


def test_rows_are_carried_until_they_are_recorded(checked, tmp_path) -> None:
    recorded = 0
    ledger = Ledger(tmp_path / "ledger.parquet")
    journal = Journal(engine_of(checked()).ranks, ledger, 1, lambda: recorded)

    def carried() -> list[int]:
        journal.seal().write(tmp_path)
        return [row["step"] for row in read_rows(tmp_path)]

    for step in (1, 2, 3):
        journal.metric({"step": step})
    assert carried() == [1, 2, 3]
    assert carried() == [1, 2, 3]
    recorded = 2
    journal.metric({"step": 4})
    assert carried() == [3, 4]
    recorded = 4
    assert carried() == []

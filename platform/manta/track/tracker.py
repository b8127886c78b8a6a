"""What a training run tells the world: one object for record, W&B, console and report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manta.config import RunConfig
from manta.corpus.manifest import Manifest
from manta.track.console import RunConsole
from manta.track.record import RunRecord
from manta.track.state import Outcome
from manta.track.wandb_log import WandbLog

log = logging.getLogger(__name__)
LEDGER = "ledger.parquet"


class Tracker:
    """Takes the events of a run, in order, from one thread."""

    def __init__(self, record: RunRecord, wandb: WandbLog, console: RunConsole) -> None:
        """Use `open`."""
        self.run_dir: Path = record.run_dir
        self._record = record
        self._wandb = wandb
        self._console = console

    @classmethod
    def open(
        cls,
        config: RunConfig,
        manifest: Manifest,
        *,
        total_steps: int,
        total_tokens: int,
        console: bool = True,
    ) -> Tracker:
        """Create or continue the run that `config` names.

        Args:
            config: the resolved config.
            manifest: of the corpus to train on.
            total_steps: optimizer steps in the whole run.
            total_tokens: tokens in the whole run.
            console: show the run on standard output.

        Raises:
            RunError: if the run's directory is another run's, in use, damaged or not
                writable.
        """
        record = RunRecord.open(
            config, manifest, total_steps=total_steps, total_tokens=total_tokens
        )
        wandb = WandbLog.start(config, record)
        return cls(record, wandb, RunConsole(record.state, enabled=console))

    def backfill(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the rows that a checkpoint carries; those already there are left alone."""
        for row in rows:
            self._keep(row)

    def group_started(
        self, *, world_size: int, attempt: int, step: int, tokens: int, hardware: Mapping[str, Any]
    ) -> None:
        """A worker group begins to train at `step`, having consumed `tokens`."""
        self._record.group_started(
            world_size=world_size, attempt=attempt, step=step, tokens=tokens, hardware=hardware
        )
        self._console.group_started(self._record.state)

    def group_ended(self, *, reason: str) -> None:
        """The worker group is gone."""
        self._record.group_ended(reason=reason)
        self._console.group_ended(reason)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Take a training row, or a validation row (``step``, ``tokens``, ``val_loss``)."""
        self._keep(row)
        self._console.row(row)
        self._tell()

    def checkpoint(self, *, step: int, tokens: int, path: str, seconds: float) -> None:
        """A checkpoint is whole, after `seconds` of work."""
        self._record.checkpoint(step=step, tokens=tokens, path=path, seconds=seconds)

    def note(self, message: str) -> None:
        """Show `message` on a line of its own and keep it with the run."""
        self._record.event(message)
        self._console.note(message)

    def finish(
        self,
        status: Outcome,
        *,
        reason: str = "",
        final: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the last record, the report and the summary. W&B can't make it raise."""
        self._record.finish(status, reason=reason, final=final or {})
        self._record.close()

    def _keep(self, row: Mapping[str, Any]) -> None:
        written = self._record.add(row)
        if written is not None:
            self._wandb.log(written)

    def _tell(self) -> None:
        for message in self._wandb.messages():
            self.note(message)

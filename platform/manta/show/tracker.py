"""Passes a run's events to its record, W&B, the console and the report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manta.config import MantaError, RunConfig
from manta.config.credentials import without_credentials
from manta.corpus.manifest import Manifest
from manta.record.alert_record import AlertCause, AlertKind
from manta.record.context import RunContext
from manta.record.run_record import RunRecord
from manta.record.run_state import (
    GroupStart,
    Outcome,
    RunState,
    Totals,
    WandbState,
    sync_command,
)
from manta.show.alert_command import AlertCommand
from manta.show.console.terminal import RunConsole
from manta.show.report.run_report import write_report
from manta.show.wandb.run_facts import run_info, run_summary
from manta.show.wandb.uploader import WandbLog, check_wandb
from manta.storage.place import tree
from manta.storage.run_folder import LEDGER, REPORT

# Folder of W&B's local files, and the prefix of those of runs that it could not send.
WANDB, OFFLINE = "wandb", "offline-run-"
# Reason of a run that ended early on purpose and may go on later.
PAUSED = "paused"
# Alerts that a trial does not raise: a setting that diverges is what a sweep is there to find.
FOUND_BY_SWEEPS: tuple[AlertKind, ...] = ("diverged", "bad_step")


class Tracker:
    """Takes the events of a run, in order, from one thread."""

    def __init__(
        self,
        record: RunRecord,
        wandb: WandbLog,
        console: RunConsole,
        summarise: Callable[[RunState], dict[str, Any]],
        alerts: AlertCommand,
        no_alerts: Sequence[AlertKind] = (),
    ) -> None:
        """Use `open`."""
        self.run_dir: Path = record.run_dir
        self.place = record.place
        self._summarise = summarise
        self._record = record
        self._wandb = wandb
        self._console = console
        self._alerts, self._no_alerts = alerts, no_alerts
        self._finished = False

    @classmethod
    def open(
        cls,
        config: RunConfig,
        manifest: Manifest,
        *,
        total_steps: int,
        total_tokens: int,
        eval_sample: str = "",
        frozen: str = "",
        base: str = "",
        console: bool = True,
        context: RunContext | None = None,
        remarks: Sequence[str] = (),
        head: Sequence[str] = (),
    ) -> Tracker:
        """Create or continue the run that `config` names.

        Args:
            config: the run's config, checked and complete.
            manifest: the manifest of the corpus to train on.
            total_steps: optimizer steps in the whole run.
            total_tokens: tokens in the whole run.
            eval_sample: digest of the samples that evaluations read; "" without evaluations.
            frozen: fingerprint of the frozen model that the objective compares with; "" without.
            base: fingerprint of the model some of whose weights stay frozen; "" if unknown.
            console: whether to show the run on standard output.
            context: the whole that the run is part of, such as a sweep, for W&B.
            remarks: remarks on the plan, from `manta.show.console.remarks`, to keep with the run.
            head: header lines to show first, from `manta.show.console.header`.

        Raises:
            RunError: if the run's directory is in use, damaged, not writable, or has another
                run.
            ConfigError: if the config insists on W&B online and there is no API key.
        """
        check_wandb(config.wandb)
        record = RunRecord.open(
            config,
            manifest,
            total_steps=total_steps,
            total_tokens=total_tokens,
            eval_sample=eval_sample,
            frozen=frozen,
            base=base,
        )
        known = {event.message for event in record.state.events}
        for remark in remarks:
            if remark not in known:
                record.event(remark)
        wandb = WandbLog(run_info(config, record.state, record.run_dir, context))

        def summarise(state: RunState) -> dict[str, Any]:
            return run_summary(state, config, record.run_dir, context)

        tracker = cls(
            record,
            wandb,
            RunConsole(record.state, enabled=console, head=head),
            summarise,
            AlertCommand(config.alerts),
            FOUND_BY_SWEEPS if context else (),
        )
        tracker._hear_disk()
        return tracker

    @property
    def attempts(self) -> int:
        """The number of worker groups so far, including those of earlier drivers."""
        return len(self._record.state.groups)

    @property
    def totals(self) -> Totals:
        """Sums over the whole run so far, including those of earlier drivers."""
        return self._record.state.totals

    def backfill(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows that a checkpoint carries, unless they are recorded already."""
        for row in rows:
            self._record.add(row)

    def group_started(self, start: GroupStart) -> None:
        """Take the start of a worker group."""
        self._record.group_started(start)
        self._console.group_started(self._record.state)

    def group_snapshots(self, size: int) -> None:
        """Take the size in bytes of the newest group's snapshots, all nodes together."""
        self._record.group_snapshots(size)

    def group_timed(self, seconds: Mapping[str, float]) -> None:
        """Take further times of the newest group's start: part → seconds."""
        self._record.group_timed(seconds)

    def group_spent(self, step: int, seconds: Mapping[str, float]) -> None:
        """Record what the group's time went to until `step`: activity → seconds."""
        self._record.group_spent(step, seconds)

    def group_ended(self, *, reason: str) -> None:
        """Take the end of the worker group."""
        self._record.group_ended(reason=reason)
        self._console.group_ended(reason)

    def busy(self, doing: str, share: float) -> None:
        """Take what the workers do between steps; see `RunConsole.busy`."""
        self._console.busy(doing, share)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Take a training row, or a validation row (``step``, ``tokens``, ``val_loss``)."""
        self._record.add(row)
        self._console.row(row)
        self._hear_alerts(self._alerts.problems())
        self._hear_wandb()
        self._hear_disk()

    def evaluated(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take what evaluators found beside training: rows with ``evaluation``, in order."""
        try:
            self._record.evaluated(rows)
        except OSError as error:
            self.note(f"a row of an evaluation can't be written: {error}")
        self._hear_wandb()
        self._hear_disk()

    @property
    def recorded(self) -> int:
        """How many of the rows given so far are durable in the run's files."""
        return self._record.recorded

    def checkpoint(self, *, step: int, tokens: int, path: str, seconds: float) -> None:
        """Take a complete checkpoint, which took `seconds`."""
        self._record.checkpoint(step=step, tokens=tokens, path=path, seconds=seconds)
        self._hear_disk()

    @property
    def skips(self) -> list[tuple[int, int]]:
        """The recorded ranges of steps that rewinds left out, each as (first, last)."""
        return self._record.state.skips

    def rewound(self, step: int, skips: Sequence[tuple[int, int]] = ()) -> None:
        """Take a rewind to `step` or before: rows after it are void and will come again.

        W&B's steps can't go back: W&B keeps the void rows, and steps up to the last of them are
        not sent again. The files and the report have the rows that replaced them.
        """
        self._record.rewound(step, skips)
        self.note(f"went back: what was recorded after step {step:,} is void")

    def note(self, message: str) -> None:
        """Show `message` on its own line, and record it with the run."""
        self._record.event(message)
        self._record.save()  # rows trigger saving, and a waiting run has none
        self._console.note(without_credentials(message))

    def alert(self, about: AlertCause, message: str) -> None:
        """Alert people, unless they were alerted of this before; the record has it first."""
        if about.kind in self._no_alerts:
            return
        alert = self._record.alert(about, message)
        if alert is not None:
            named = {"name": self._record.state.name, "place": without_credentials(str(self.place))}
            self._alerts.send({**alert.model_dump(), **named})
        self._hear_alerts(self._alerts.problems())

    def _hear_alerts(self, problems: Sequence[str]) -> None:
        for problem in problems:
            self.note(problem)

    def finish(
        self,
        status: Outcome,
        *,
        reason: str = "",
        final: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the last record, the report and the summary. W&B can't make it raise.

        Harmless when called again.

        Args:
            status: how the run ended.
            reason: why the run ended; "" if there is nothing to say.
            final: final values to keep with the run.

        Raises:
            RunError: if a run that ended without an error can't be recorded on a full disk.
        """
        if self._finished:
            return
        self._finished = True
        try:
            # Write the record first, so that it is true whatever happens below.
            self._record.finish(status, reason=reason, final=final or {})
            self._read_ledger()
            self._record.recheck_history()
            self._hear_disk()
            self._finish_wandb(status)
            self._publish_wandb()
            self._hear_alerts(self._alerts.finish())
            self._record.save()
            self._write_report()
            self._console.summary(self._record.state, str(self.place))
            if status in ("finished", "stopped"):
                self._record.check_saved()
            else:
                self._record.hand_over()
        finally:
            self._console.close()
            self._record.close()

    def _hear_wandb(self) -> None:
        """Record and show what the W&B process reported."""
        status, known = self._wandb.status, self._record.state.wandb
        if known.mode != status.mode:
            self._record.state.wandb = WandbState(
                id=known.id,
                mode=status.mode,
                url=status.url,
                folder=status.folder,
                sync_command=(
                    sync_command(status.folder)
                    if status.mode == "offline" and status.folder
                    else None
                ),
            )
            if status.url is not None:
                self._console.note(f"W&B: {status.url}")
        for message in self._wandb.messages():
            if self._wandb.status.mode == "failed":
                self._record.state.wandb.problem = message.partition("; ")[0]
            self.note(message)

    def _hear_disk(self) -> None:
        for message in self._record.messages():
            self.note(message)

    def _finish_wandb(self, status: Outcome) -> None:
        state = self._record.state
        on_purpose = status in ("finished", "stopped") or state.reason == PAUSED
        summary = self._summarise(state) if self._wandb.status.mode != "disabled" else {}
        self._wandb.finish(summary, exit_code=0 if on_purpose else 1)
        self._hear_wandb()

    def _publish_wandb(self) -> None:
        """Copy W&B's unsent files to the run's store, so that any machine can upload them."""
        kept = sorted(name for name in tree(self.run_dir / WANDB) if name.startswith(OFFLINE))
        try:
            self._record.publish([f"{WANDB}/{name}" for name in kept])
        except OSError as error:
            self.note(f"W&B's offline files can't be written to {self.place}: {error}")

    def _read_ledger(self) -> None:
        folder = self.place / LEDGER
        from manta.stream.ledger import Ledger

        try:
            if not folder.exists():
                return
            ledger = Ledger(folder)
            self._record.state.ledger_digest = ledger.digest()
            self._record.state.results.skipped_steps = ledger.skipped_steps()
        except (MantaError, OSError) as error:
            self.note(f"the ledger can't be read: {error}")

    def _write_report(self) -> None:
        try:
            write_report(self.run_dir)
            self._record.publish([REPORT])
        except (MantaError, OSError) as error:
            with contextlib.suppress(OSError):
                self.note(f"the report can't be written: {error}")

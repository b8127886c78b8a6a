"""The files of a run directory: `config.yaml`, `run.json`, `metrics.jsonl`.

The record knows neither W&B nor a console. One driver at a time holds it and adds what
happens, in order. Nothing is left half-written: a driver that is killed at any moment
leaves a directory that the next one continues. A full disk does not end the run: what
can't be written is kept in memory and written once there is space.

The files of a run in a store are written to a working folder of this node, and a `Courier` copies
them to the store. Only what is in the store counts as recorded, as this node may end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manta.config import RunConfig
from manta.config.credentials import without_credentials
from manta.config.errors import RunError
from manta.corpus.manifest import Manifest
from manta.record import opening
from manta.record.accounting import Accounting
from manta.record.alert_record import AlertCause, RunAlert
from manta.record.history import History, Tail
from manta.record.record_files import RecordFiles
from manta.record.row_chain import Mark
from manta.record.run_state import (
    CheckpointState,
    Fork,
    GroupStart,
    Outcome,
    Results,
    RunState,
    read_state_if_any,
    utc_now,
)
from manta.storage.atomic import replace_text
from manta.storage.exclusive import RunHold
from manta.storage.run_folder import CONFIG, METRICS
from manta.storage.seal import seal_text

# At most this much accounted time is lost with a killed driver; writing run.json is cheap.
SAVE_SECONDS = 5.0


class RunRecord:
    """One run's files, held by this process until `close`."""

    def __init__(
        self,
        hold: RunHold,
        state: RunState,
        config: RunConfig,
        clock: Callable[[], float],
    ) -> None:
        """Take a record that `open` has checked."""
        self.run_dir, self.place = hold.folder, hold.place
        self.state = state
        self._hold = hold
        self._clock = clock
        self._saved = clock()
        self._messages: list[str] = []
        self._reproducible = config.train.reproducible is not None
        self.history = History(self.run_dir / METRICS, state.history)
        self._accounting = Accounting(state, config, clock)
        self._files = RecordFiles(hold, self.history)
        if not state.groups:
            self._take_beginning(state.fork)
        self._hear_history()
        if not hold.exclusive:
            self.event(
                "the file system has no locks, so a second driver isn't kept out of this run: "
                "don't start one"
            )

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
        clock: Callable[[], float] = time.monotonic,
    ) -> RunRecord:
        """Create or continue ``<run.storage>/<run.name>/``.

        Args:
            config: the run's config, checked and complete.
            manifest: the manifest of the corpus to train on.
            total_steps: optimizer steps in the whole run.
            total_tokens: tokens in the whole run.
            eval_sample: digest of the samples that evaluations read; "" without evaluations.
            frozen: fingerprint of the frozen model that the objective compares with; "" without.
            base: fingerprint of the model some of whose weights stay frozen; "" if unknown.
            clock: a monotonic clock, in seconds.

        Raises:
            RunError: if the directory is in use, damaged, not writable, or has another run.
        """
        hold = opening.take_hold(config)
        run_dir = hold.folder
        record: RunRecord | None = None
        try:
            old = read_state_if_any(run_dir)
            notes = opening.check_same_run(hold.place, old, config, manifest, frozen, base)
            if old is None:
                notes += opening.set_rows_aside(hold.place, run_dir)
            state = opening.take_up(run_dir, old, config, manifest, total_steps, total_tokens)
            state.frozen, state.base = frozen, base or state.base
            state.loss_is = config.objective.loss_is
            replace_text(run_dir / CONFIG, opening.config_text(config))
            record = cls(hold, state, config, clock)
            record.notice(notes)
            record.take_eval_sample(eval_sample)
            record.save()
            record.check_saved()
        except OSError as error:
            (record.close if record else hold.release)()
            raise RunError(
                f"{run_dir}: can't be written to: {error.strerror}; free some space or repair the "
                "storage, then run the same command again"
            ) from None
        except BaseException:
            (record.close if record else hold.release)()
            raise
        return record

    def notice(self, notes: Sequence[str]) -> None:
        """Record what was found when the run was opened, and show people all but config changes."""
        for note in notes:
            if note.startswith("config: "):
                self.event(note)
            else:
                self._messages.append(note)

    def _hear_history(self) -> None:
        """Report what was wrong with the rows; fill missing ones from checkpoints."""
        self._messages += self.history.notes
        self.history.notes.clear()
        if self.history.changed:
            self._fill_gaps()
            self.history.changed = False

    def recheck_history(self) -> None:
        """Check all rows against the record; a start reads only those after the record's mark."""
        try:
            self.history.recheck()
            self._hear_history()
        except OSError as error:
            self._messages.append(f"{METRICS} is damaged and can't be repaired: {error}")

    def _fill_gaps(self) -> None:
        """Fill in missing rows from the checkpoints that carry them."""
        rows = opening.carried_rows(self.place)
        if count := self.history.fill(rows):
            self._messages.append(f"{METRICS}: {count} missing rows were taken from checkpoints")

    def _take_beginning(self, fork: Fork | None) -> None:
        """Account for rows that exist at the start: a parent run's, or an earlier record's."""
        for row in Tail(self.history.path).rows():
            self.state.take_results(row)
            self._accounting.reached(int(row["step"]), int(row["tokens"]))
        if fork is not None:
            self._accounting.reached(fork.step, fork.tokens)
            self.event(f"forked from {fork.run} after step {fork.step:,}")

    def take_eval_sample(self, eval_sample: str) -> None:
        """Record the digest of the samples that evaluations read from now on."""
        last = self.history.last("validation")
        if changed := opening.take_eval_sample(self.state, eval_sample, last):
            self._messages.append(changed)

    def add(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Add a row of metrics.

        Returns:
            The row as it was written; None if the history has its step already.
        """
        self._accounting.reached(int(row["step"]), int(row["tokens"]))
        written = self.history.append(row)
        if written is not None:
            self.state.take_results(written)
        self._files.row_added()
        if self._clock() - self._saved >= SAVE_SECONDS:
            self.save()
        return written

    def evaluated(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Add rows of evaluations beside training; returns those that were not there yet.

        A row of a step before the last one's, as of an evaluation that failed at first, is put in
        its place.

        Raises:
            OSError: if the history can't be rewritten for that.
        """
        added = [found for row in rows if (found := self.history.append(row)) is not None]
        if len(added) < len(rows):
            self.history.write()
            self.history.fill(rows)
        self.save()
        return added

    def group_spent(self, step: int, seconds: Mapping[str, float]) -> None:
        """Record what the newest group's time went to until `step`: activity → seconds."""
        self._accounting.spent(step, seconds)

    def group_started(self, start: GroupStart) -> None:
        """Record that a worker group begins to train."""
        self.group_ended(reason="replaced")
        self._notice_another_kind(start)
        self._accounting.group_started(start)
        self.save()

    def _notice_another_kind(self, start: GroupStart) -> None:
        """Tell people if a run that is to be the same to the bit goes on on other devices."""
        before = self.state.hardware.get("workers", {}).get("kind")
        now = start.hardware.get("kind")
        if self._reproducible and before and now and before != now:
            self._messages.append(
                f"train.reproducible needs devices of one kind, but the run continues on {now} "
                f"after {before}: weights may differ in rounding from here on"
            )

    def group_ended(self, *, reason: str) -> None:
        """Record that the worker group ended; nothing if there is none."""
        if self._accounting.group_ended(reason):
            self.save()

    def group_snapshots(self, size: int) -> None:
        """Record that the newest group's snapshots take `size` bytes on all nodes together."""
        self.state.groups[-1].snapshot_bytes = size

    def group_timed(self, seconds: Mapping[str, float]) -> None:
        """Add to the times of the newest group's start: part → seconds."""
        self.state.groups[-1].start.update(seconds)

    def checkpoint(self, *, step: int, tokens: int, path: str, seconds: float) -> None:
        """Record a complete checkpoint, and make the history up to it as durable."""
        before = self.state.checkpoint
        self.state.checkpoint = CheckpointState(
            step=step,
            tokens=tokens,
            path=path,
            seconds=seconds,
            count=before.count + 1 if before else 1,
        )
        self._accounting.reached(step, tokens)
        self.history.write()
        self.history.sync()
        self.save()

    def rewound(self, step: int, skips: Sequence[tuple[int, int]] = ()) -> None:
        """Record that training goes back to `step` or before, and drop later rows.

        Args:
            step: the last step whose rows stay valid.
            skips: the ranges of steps that rewinds left out so far, each as (first, last).
        """
        self.state.skips = sorted({*self.state.skips, *skips})
        self.recheck_history()
        # Drop the mark first, so that after a crash the shortened file isn't taken for damaged.
        self.save(mark=Mark(unproven=self.history.unproven))
        self.history.rewind(step)
        self.state.results = Results(skipped_steps=self.state.results.skipped_steps)
        for row in Tail(self.history.path).rows():
            self.state.take_results(row)
        if self.state.checkpoint and self.state.checkpoint.step > step:
            self.state.checkpoint = None
        self.save()

    def event(self, message: str) -> None:
        """Record one line that people who look at the run should read."""
        self.state.add_event(without_credentials(message))

    def alert(self, about: AlertCause, message: str) -> RunAlert | None:
        """Record an alert, before it is told; None if it is not to be told again."""
        cause = AlertCause(about.kind, without_credentials(about.cause))
        alert = self.state.add_alert(cause, without_credentials(message))
        if alert is not None:
            self.save()
        return alert

    def finish(self, status: Outcome, *, reason: str, final: Mapping[str, Any]) -> None:
        """Record how the run ended, until a driver continues it."""
        self.group_ended(reason=status)
        self.state.status = status
        self.state.reason = without_credentials(reason)
        self.state.ended = utc_now()
        self.state.final = dict(final)
        self.history.sync()
        self.save()

    def save(self, *, mark: Mark | None = None) -> None:
        """Write `run.json` and the history; on a full disk, later.

        Args:
            mark: the history's mark to record, instead of that at its current end.

        Raises:
            RunError: if the files can't be written for another reason than a full disk, or another
                driver has taken the run.
        """
        self._hold.check()
        self._accounting.measure()
        self.state.updated = utc_now()
        self._saved = self._clock()
        self.history.write()
        self.state.history = mark or self.history.mark
        self._files.write(seal_text(self.state.model_dump_json(fallback=str)))

    def publish(self, names: Sequence[str]) -> None:
        """Copy other files of the folder to the run's store, too.

        Raises:
            OSError: if the store fails.
        """
        self._files.publish(names)

    @property
    def recorded(self) -> int:
        """Number of rows added so far that are durable: in the store, if the run has one."""
        return self._files.recorded

    def check_saved(self) -> None:
        """Refuse to continue with files that are not up to date.

        Raises:
            RunError: if the disk was full, or the store could not be reached.
        """
        self._files.check_saved()

    def hand_over(self) -> None:
        """Wait a while for the files to reach the store, when a run is interrupted."""
        self._files.hand_over()

    def messages(self) -> list[str]:
        """New messages for people about the record and its storage; each is returned once."""
        taken, self._messages = self._messages, []
        return taken + self._files.messages()

    def close(self) -> None:
        """Close the files and release the directory."""
        self._files.close()

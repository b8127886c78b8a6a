"""Write `run.json` and `metrics.jsonl` to the disk, and to the run's store if it has one.

What can't be written, on a full disk or to a store that fails, is kept and written later; messages
tell people when that begins and when it has ended.
"""

from __future__ import annotations

from collections.abc import Sequence

from manta.config.errors import RunError
from manta.record.history import History
from manta.storage.atomic import NO_SPACE, replace_text
from manta.storage.courier import Courier, Parcel
from manta.storage.exclusive import RunHold
from manta.storage.run_folder import CONFIG, METRICS, RUN
from manta.storage.store import StorePath
from manta.storage.working import push

# Seconds that an interrupted driver waits at most for the store, since it should end soon.
HAND_OVER_SECONDS = 15.0


class RecordFiles:
    """The files of one run's record, in the folder that `hold` holds, until `close`."""

    def __init__(self, hold: RunHold, history: History):
        self._hold, self._history = hold, history
        self._folder, self._place = hold.folder, hold.place
        self._courier = Courier(hold.place) if isinstance(hold.place, StorePath) else None
        self._rows = self._written_rows = 0
        self._full = False
        self._store_problem: str | None = None
        self._messages: list[str] = []

    def row_added(self) -> None:
        """Count a row that was added to the history, or that the history had already."""
        self._rows += 1
        if self._history.waiting:
            self._note_full()

    def write(self, run: str) -> None:
        """Write `run.json`, whose whole text is `run`; on a full disk, later.

        Raises:
            RunError: if it can't be written for another reason than a full disk.
        """
        try:
            replace_text(self._folder / RUN, run)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise RunError(f"{self._folder / RUN}: can't be written: {error}") from None
            self._note_full()
        else:
            self._note_room()
        if self._courier is not None and self._up_to_date:
            self._courier.send(self._parcel(run))

    def _parcel(self, run: str) -> Parcel:
        """The files as they are now, to send to the store."""
        file, size = self._history.snapshot()
        config = (self._folder / CONFIG).read_bytes()
        contents = {CONFIG: config, RUN: run.encode()}
        return Parcel(self._rows, contents, (METRICS, file, size))

    def publish(self, names: Sequence[str]) -> None:
        """Copy other files of the folder to the run's store, too.

        Raises:
            OSError: if the store fails.
        """
        if isinstance(self._place, StorePath) and names:
            push(self._folder, self._place, names)

    @property
    def recorded(self) -> int:
        """Number of rows added so far that are durable: in the store, if the run has one."""
        if self._courier is not None:
            return self._courier.delivered
        if self._up_to_date:
            self._written_rows = self._rows
        return self._written_rows

    @property
    def _up_to_date(self) -> bool:
        """Whether the last write put everything added until then into the files."""
        return not self._full and not self._history.waiting

    def check_saved(self) -> None:
        """Refuse to continue with files that are not up to date.

        Raises:
            RunError: if the disk was full, or the store could not be reached.
        """
        if self._courier is not None and not self._courier.flush():
            raise RunError(
                f"{self._place}: {RUN} and {METRICS} can't be brought up to date "
                f"({self._courier.problem or 'it takes too long'}); repair the storage, then run "
                "the same command again: nothing that a checkpoint holds is lost"
            )
        if not self._up_to_date:
            raise RunError(
                f"{self._folder}: the disk is full: {RUN} and {METRICS} can't be brought up to "
                "date; free some space, then run the same command again"
            )

    def hand_over(self) -> None:
        """Wait a while for the files to reach the store, when a run is interrupted."""
        if self._courier is not None:
            self._courier.flush(HAND_OVER_SECONDS)

    def messages(self) -> list[str]:
        """New messages for people about the storage; each is returned once."""
        if self._courier is not None:
            self._note_store(self._courier.problem)
        taken, self._messages = self._messages, []
        return taken

    def _note_store(self, problem: str | None) -> None:
        if problem is not None and self._store_problem is None:
            self._messages.append(
                f"{RUN} and {METRICS} can't be written to {self._place} ({problem}): they are kept "
                "on this node and sent once the store works again. Repair the storage"
            )
        if problem is None and self._store_problem is not None:
            self._messages.append(f"{RUN} and {METRICS} are up to date in {self._place} again")
        self._store_problem = problem

    def _note_full(self) -> None:
        if not self._full:
            self._full = True
            self._messages.append(
                f"the disk is full: {RUN} and {METRICS} can't be written to {self._folder}; "
                "their content is kept in memory until there is space. Free some space"
            )

    def _note_room(self) -> None:
        if self._full and not self._history.waiting:
            self._full = False
            self._messages.append(f"there is space again: {RUN} and {METRICS} are up to date")

    def close(self) -> None:
        """Stop sending to the store, close the files and release the folder."""
        if self._courier is not None:
            self._courier.close()
        self._history.close()
        self._hold.release()

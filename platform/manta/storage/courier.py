"""Copy a driver's small files to a store in the background, and tell what has arrived.

Training never waits for it. While one parcel is being sent, only the newest of those that were
handed in meanwhile waits. After each parcel there is a pause, the longer the larger the parcel
was, as a growing history is sent whole each time. A parcel that fails is tried again until it
arrives.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field

from manta.storage.store import CHUNK, StorePath, reason

REST_SECONDS = 5.0
# Average traffic of one run, at most.
BYTES_PER_SECOND = 2**20
# Seconds for which `flush` waits for the last parcel of a run.
LAST_SECONDS = 60.0


@dataclass
class Parcel:
    """Contents of files at one moment.

    Attributes:
        count: progress that the files stand for, in a unit of the sender's.
        contents: contents of small files, by name; sent after `grown`.
        grown: name, descriptor and size of a file that is only ever appended to, so that its
            first `size` bytes never change; the parcel closes the descriptor.
    """

    count: int
    contents: dict[str, bytes]
    grown: tuple[str, int, int] | None = None
    _open: bool = field(default=True, init=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.contents.values())) + (self.grown[2] if self.grown else 0)

    def close(self) -> None:
        """Close the descriptor of `grown`; nothing if called again."""
        if self._open and self.grown is not None:
            os.close(self.grown[1])
        self._open = False


class Courier:
    """Takes parcels from one thread, and another thread writes them to a place in a store."""

    def __init__(self, place: StorePath, rest: float = REST_SECONDS):
        self._place, self._rest = place, rest
        self._changed = threading.Condition()
        self._waiting: Parcel | None = None
        self._under_way = False
        self._hurry = self._closed = False
        self._delivered = 0
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="manta-courier", daemon=True)
        self._thread.start()

    @property
    def delivered(self) -> int:
        """The count of the newest parcel that is in the store."""
        return self._delivered

    @property
    def problem(self) -> str | None:
        """Why the last try failed, if it did."""
        return self._problem

    def send(self, parcel: Parcel) -> None:
        """Hand in a parcel; returns at once."""
        with self._changed:
            if self._waiting is not None:
                self._waiting.close()
            self._waiting = parcel
            self._changed.notify_all()

    def flush(self, seconds: float = LAST_SECONDS) -> bool:
        """Wait at most `seconds` until everything has arrived; returns whether it has."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            done = self._changed.wait_for(
                lambda: self._waiting is None and not self._under_way, seconds
            )
            self._hurry = False
        return done

    def close(self) -> None:
        """Send nothing any more; nothing if called again."""
        with self._changed:
            self._closed = True
            if self._waiting is not None:
                self._waiting.close()
                self._waiting = None
            self._changed.notify_all()

    def _run(self) -> None:
        due = 0.0
        while (parcel := self._next(due)) is not None:
            problem = self._try(parcel)
            now = time.monotonic()
            with self._changed:
                self._under_way = False
                self._problem = problem
                if problem is None:
                    self._delivered = parcel.count
                    parcel.close()
                    due = now + max(self._rest, parcel.size / BYTES_PER_SECOND)
                else:
                    due = now + self._rest
                    self._put_back(parcel)
                self._changed.notify_all()

    def _next(self, due: float) -> Parcel | None:
        """The next parcel, once the time `due` is reached; None when closed."""
        with self._changed:
            while not self._closed:
                left = due - time.monotonic()
                if self._waiting is None:
                    self._changed.wait()
                elif left > 0 and not (self._hurry and self._problem is None):
                    self._changed.wait(left)
                else:
                    parcel, self._waiting, self._under_way = self._waiting, None, True
                    return parcel
        return None

    def _put_back(self, parcel: Parcel) -> None:
        if self._waiting is None and not self._closed:
            self._waiting = parcel
        else:
            parcel.close()

    def _try(self, parcel: Parcel) -> str | None:
        """Send a parcel; returns why it failed, or None."""
        try:
            if parcel.grown is not None:
                self._bring_grown(*parcel.grown)
            for name, content in parcel.contents.items():
                (self._place / name).write_bytes(content)
        except OSError as error:
            return reason(error)
        return None

    def _bring_grown(self, name: str, file: int, size: int) -> None:
        with (self._place / name).open_output() as out:
            at = 0
            while at < size:
                chunk = os.pread(file, min(CHUNK, size - at), at)
                out.write(chunk)
                at += len(chunk)

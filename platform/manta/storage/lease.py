"""A lease on a place in a store: an object that names its holder, who renews it while it lives.

A store has no locks that end with their process. A lease is renewed in the background; one that
was not renewed for its term is free, and so is one whose process was on this machine and has ended.
Its age is measured by the store's clock alone, so that the clocks of machines need not agree. If
two processes take it at the same moment, they find out at the next renewal: the one whose object
was replaced has lost the lease, and must stop.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from manta.config.errors import RunError
from manta.storage.store import StorePath

log = logging.getLogger(__name__)
LEASE = ".lease.json"
CLOCK = ".clock"
TERM_SECONDS = 45.0
RENEW_SECONDS = 10.0


class Holder(BaseModel):
    """The process that holds a lease: its machine and that machine's boot, its id and its start."""

    host: str
    boot: str
    process: int
    started: str
    token: str

    @classmethod
    def me(cls) -> Holder:
        """This process, with a new token."""
        return cls(
            host=socket.gethostname(),
            boot=_boot(),
            process=os.getpid(),
            started=_started(os.getpid()),
            token=secrets.token_hex(8),
        )

    def is_dead(self) -> bool:
        """Whether the holder was a process of this machine that has ended."""
        here = (socket.gethostname(), _boot())
        return bool(self.boot) and (self.host, self.boot) == here and self._gone()

    def _gone(self) -> bool:
        return _started(self.process) != self.started


class Lease:
    """An exclusive hold on a place in a store, until `release` or a term after the process ends.

    Attributes:
        lost: whether another process has taken the lease.
    """

    def __init__(self, place: StorePath, term: float = TERM_SECONDS, renew: float = RENEW_SECONDS):
        """Take the lease at once, or raise.

        Raises:
            RunError: if another process holds it, naming the process and when it will be free.
            OSError: if the store can't be asked.
        """
        self.lost = False
        self._place, self._object, self._me = place, place / LEASE, Holder.me()
        self._renew_seconds = renew
        self._ended = threading.Event()
        refuse_if_held(place, term)
        self._write()
        if (now := _read(self._object)) is None or now.token != self._me.token:
            raise RunError(
                f"{place}: another driver has just begun to work here: {_who(now)}; wait until it "
                "ends, or stop it"
            )
        self._thread = threading.Thread(target=self._keep, name="manta-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise if another process has taken the lease.

        Raises:
            RunError: naming that process.
        """
        if self.lost:
            with suppress(OSError):
                who = _who(_read(self._object))
                raise RunError(f"{self._place}: another driver has taken over: {who}")
            raise RunError(f"{self._place}: another driver has taken over")

    def release(self) -> None:
        """Give up the lease; nothing if called again."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            if not self._taken():
                self._object.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self.lost and not self._ended.wait(self._renew_seconds):
            self.renew()

    def renew(self) -> None:
        """Renew the lease, unless another process has taken it."""
        try:
            self.lost = self._taken()
            if not self.lost:
                self._write()
        except OSError as error:  # while the store fails, no other process can take it either
            log.debug("the lease of %s can't be renewed: %s", self._place, error)

    def _taken(self) -> bool:
        now = _read(self._object)
        return now is not None and now.token != self._me.token

    def _write(self) -> None:
        self._object.write_bytes(self._me.model_dump_json().encode())


def refuse_if_held(place: StorePath, term: float = TERM_SECONDS) -> None:
    """Refuse if a process that may live holds the lease of a place.

    Raises:
        RunError: naming the process, and when the lease will be free.
        OSError: if the store can't be asked.
    """
    holder = _read(place / LEASE)
    if holder is None or holder.is_dead():
        return
    age = _now(place) - (place / LEASE).modified()
    if age < term:
        raise RunError(
            f"{place}: another driver is at work here ({_who(holder)}, which gave its last sign of "
            f"life {max(0.0, age):.0f} s ago): wait until it ends, or stop it; if it has ended "
            f"already, try again in {term - age:.0f} s"
        )


def _read(lease: StorePath) -> Holder | None:
    try:
        return Holder.model_validate_json(lease.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _now(place: StorePath) -> float:
    """The time by the store's clock."""
    clock = place / f"{CLOCK}-{secrets.token_hex(4)}"
    clock.write_bytes(b"")
    now = clock.modified()
    clock.unlink(missing_ok=True)
    return now


def _who(holder: Holder | None) -> str:
    return "unknown" if holder is None else f"process {holder.process} on {holder.host}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(process: int) -> str:
    """Start of a process of this machine, in clock ticks; the empty string if it has ended."""
    try:
        # Fields after the name, which may hold any character: the first is the state, the 20th
        # the start.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]

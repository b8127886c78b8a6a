"""Who may write to a place in a store: an object that says so, renewed while its writer lives.

A store has no locks that die with their process. A lease says who holds it and is renewed in
the background; one that was not renewed for its term is free, and so is one of a process of this
machine that is gone. Its age is told by the store's clock alone, so that machines need not agree
on the time. Two that take it at the same moment find out at the latest when they renew: the one
whose lease was replaced has lost it, and must stop.
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
    """Who holds a lease: a process, by when it started, on a machine, since when it is up."""

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
        """Whether it is known to be gone: a process of this machine that is no more."""
        here = (socket.gethostname(), _boot())
        return bool(self.boot) and (self.host, self.boot) == here and self._gone()

    def _gone(self) -> bool:
        return _started(self.process) != self.started


class Lease:
    """An exclusive hold on a place in a store, until `release` or a while after the process ends.

    Attributes:
        lost: whether another has taken it.
    """

    def __init__(self, place: StorePath, term: float = TERM_SECONDS, renew: float = RENEW_SECONDS):
        """Take it at once or refuse.

        Raises:
            RunError: if another process holds it, saying who and for how long.
            OSError: if the store can't be asked.
        """
        self.lost = False
        self._place, self._object, self._me = place, place / LEASE, Holder.me()
        self._renew_seconds = renew
        self._ended = threading.Event()
        refuse_if_held(place, term)
        self._write()
        if (now := _read(self._object)) is None or now.token != self._me.token:
            raise RunError(f"{place}: another driver has just begun to work here: {_who(now)}")
        self._thread = threading.Thread(target=self._keep, name="manta-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Refuse to go on if another has taken it.

        Raises:
            RunError: naming who.
        """
        if self.lost:
            with suppress(OSError):
                who = _who(_read(self._object))
                raise RunError(f"{self._place}: another driver has taken over: {who}")
            raise RunError(f"{self._place}: another driver has taken over")

    def release(self) -> None:
        """Let the next one in. Harmless when called again."""
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
        """Say that this process lives, unless another has taken the lease."""
        try:
            self.lost = self._taken()
            if not self.lost:
                self._write()
        except OSError as error:  # nobody else can take it now either
            log.debug("the lease of %s can't be renewed: %s", self._place, error)

    def _taken(self) -> bool:
        now = _read(self._object)
        return now is not None and now.token != self._me.token

    def _write(self) -> None:
        self._object.write_bytes(self._me.model_dump_json().encode())


def refuse_if_held(place: StorePath, term: float = TERM_SECONDS) -> None:
    """Refuse if a process that may live holds the lease of a place.

    Raises:
        RunError: saying who, and when it will be free.
        OSError: if the store can't be asked.
    """
    holder = _read(place / LEASE)
    if holder is None or holder.is_dead():
        return
    age = _now(place) - (place / LEASE).modified()
    if age < term:
        raise RunError(
            f"{place}: another driver is at work here ({_who(holder)}, last heard of "
            f"{max(0.0, age):.0f} s ago): wait for it or stop it; if it is gone, this is free "
            f"in {term - age:.0f} s"
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
    """When a process of this machine started, in ticks of its clock; nothing if it is gone."""
    try:
        # After the name, which may hold anything: state, …, and as the 20th the start.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]

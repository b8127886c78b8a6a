"""A change that a user asks of a sweep, as a file in the sweep's folder.

The file appears whole and has a seal. The sweep's coordinator takes it at its next turn, or when
the sweep goes on. What was done is in `sweep.json` before the file is removed, so each request is
taken once, whatever is killed.
"""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, JsonValue

from manta.config.errors import RunError
from manta.config.mistakes import in_a_line
from manta.record.audit_log import user_name
from manta.record.run_state import utc_now
from manta.storage.place import Place, put
from manta.storage.run_folder import REQUESTS
from manta.storage.seal import read_sealed, seal_text

ENDING = ".json"
Action = Literal["stop", "add", "fork"]


class SweepRequest(BaseModel):
    """A change that is asked for.

    `id` is the name of the request's file; ids grow with time. `trials` are those to stop. `params`
    are those of a trial to add, by dotted key; what they leave out is as in the trial `like`, or in
    the base. To `fork` is to add a trial that continues from `like` after `step`, or its newest
    checkpoint, with these parameters from there on. `by` and `at` are the user and the time.
    """

    format: Literal[2] = 2
    id: str
    action: Action
    trials: list[str] = Field(default_factory=list)
    params: dict[str, JsonValue] = Field(default_factory=dict)
    like: str | None = None
    step: int | None = None
    by: str
    at: str


class TakenRequest(SweepRequest):
    """A request that was taken: what was done, or why it was refused, and the trials added."""

    answer: str
    refused: bool = False
    added: list[str] = Field(default_factory=list)


def new_request(
    action: Action,
    *,
    trials: list[str] | None = None,
    params: dict[str, JsonValue] | None = None,
    like: str | None = None,
    step: int | None = None,
) -> SweepRequest:
    """A request of this process's user, now."""
    return SweepRequest(
        id=f"{time.time_ns()}-{secrets.token_hex(4)}",
        action=action,
        trials=trials or [],
        params=params or {},
        like=like,
        step=step,
        by=f"{user_name()}@{socket.gethostname()}",
        at=utc_now(),
    )


def write_request(sweep: Place, request: SweepRequest) -> None:
    """Put a request into a sweep's folder.

    Raises:
        RunError: if it can't be written.
    """
    path = sweep / REQUESTS / f"{request.id}{ENDING}"
    try:
        put(path, seal_text(request.model_dump_json()).encode())
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error}") from None


def request_ids(sweep: Place) -> list[str]:
    """The ids of the requests in a sweep's folder, the oldest first.

    Raises:
        OSError: if the folder can't be read.
    """
    folder = sweep / REQUESTS
    if isinstance(folder, Path):
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    else:
        names = list(folder.files())
    whole = (name for name in names if name.endswith(ENDING) and not name.startswith("."))
    return sorted(name.removesuffix(ENDING) for name in whole)


def read_request(sweep: Place, id: str) -> SweepRequest:
    """The request of an id.

    Raises:
        RunError: if the file can't be understood.
        OSError: if it can't be read now.
    """
    path = sweep / REQUESTS / f"{id}{ENDING}"
    content = path.read_bytes()
    try:
        return SweepRequest.model_validate_json(read_sealed(content))
    except ValueError as error:
        raise RunError(f"{path}: can't be read as a request: {in_a_line(error)}") from None


def remove_request(sweep: Place, id: str) -> None:
    """Remove a request that was taken; nothing if it is gone.

    Raises:
        OSError: if storage fails.
    """
    (sweep / REQUESTS / f"{id}{ENDING}").unlink(missing_ok=True)

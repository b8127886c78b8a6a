"""Check that a place is writable before any device is held; errors say how to correct it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from manta.config.errors import RunError
from manta.storage.place import Place
from manta.storage.store import StorePath, reason

# Part of a store's error message → what is wrong and what to do.
REMEDIES = {
    "NO_SUCH_BUCKET": "there is no such bucket: make it, or correct the URL",
    "INVALID_ACCESS_KEY_ID": "the store doesn't know the access key: correct the credentials",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key doesn't belong to the access key: correct it",
    "EXPIRED_TOKEN": "the credentials have expired: get new ones",
    "ACCESS_DENIED": "the credentials don't allow writing: allow listing, reading, writing and "
    "deleting objects below this URL",
    "NETWORK_CONNECTION": "the store can't be reached: correct endpoint_override, or check the "
    "network",
    "credentials": "there are no credentials: give the node a role, or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY",
}


def check_writable(place: Place, key: str) -> None:
    """Write a file to a place and remove it.

    Args:
        place: a folder, which is made if it doesn't exist, or a place in a store.
        key: the config key that names it.

    Raises:
        RunError: if the place isn't writable, saying why and what to do.
    """
    name = f".probe-{secrets.token_hex(8)}"
    try:
        if isinstance(place, StorePath):
            (place / name).write_bytes(b"manta")
            (place / name).unlink(missing_ok=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            _touch(place / name)
    except OSError as error:
        if isinstance(place, StorePath):
            raise RunError(f"{key} = '{place}': {explained(error)}") from None
        raise RunError(
            f"{key} = '{place}': can't be written to ({error.strerror}); "
            "give a folder that the driver and all workers can write to"
        ) from None


def check_new_folder(out: Path) -> None:
    """Check that a new folder can be made; makes its parents only.

    Raises:
        RunError: if the folder exists or can't be made, saying why and what to do.
    """
    if out.exists():
        raise RunError(f"{out}: exists already; give another folder, or remove this one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _touch(out.parent / f".probe-{secrets.token_hex(8)}")
    except OSError as error:
        raise RunError(f"{out}: can't be made ({error.strerror}); give another folder") from None


def explained(error: OSError) -> str:
    """What a store's error means, and what to do."""
    text = reason(error)
    remedy = next((r for sign, r in REMEDIES.items() if sign.lower() in text.lower()), None)
    return f"can't be written to: {remedy or 'the store refuses'} ({text})"


def _touch(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    path.unlink()

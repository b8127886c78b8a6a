"""The way to a cluster's job server: its address, its token, and why it can't be reached."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from manta.config.credentials import without_credentials
from manta.config.errors import RunError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT = "http://127.0.0.1:8265"  # where `ray dashboard` puts it on this machine
ADDRESS, RAY_ADDRESS = "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"
CONNECT_SECONDS = 5.0
# Each sets its own level when it is imported.
CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


def connect(address: str | None = None) -> JobSubmissionClient:
    """A client of the job server at `address`; else where `ray job submit` would look.

    Raises:
        RunError: if there is none, it wants a token that isn't here, or its Ray is another.
    """
    address = address or os.environ.get(ADDRESS) or os.environ.get(RAY_ADDRESS) or DEFAULT
    if address.startswith(("http://", "https://")):
        _refuse_unreachable(address)
    _offer_token()
    import ray
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Ray lets its environment win over what it is given.
    os.environ[ADDRESS] = address
    with errors(address):
        client = JobSubmissionClient(address)
    _check_version(client, ray.__version__, address)
    return client


@contextmanager
def errors(address: str) -> Iterator[None]:
    """Turn what talking to the job server at `address` raises into errors of ours."""
    from ray.exceptions import AuthenticationError
    from requests.exceptions import RequestException

    try:
        yield
    except AuthenticationError:
        raise RunError(_wants_token(address)) from None
    except (ConnectionError, RequestException) as error:
        raise RunError(f"{_unreachable(address)} ({type(error).__name__})") from None
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the cluster at {without_credentials(address)}: {error}") from None


def _refuse_unreachable(address: str) -> None:
    """Ray asks without a limit and waits minutes for a host that doesn't answer."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        raise RunError(f"{_unreachable(address)} ({error.strerror or error})") from None


def _offer_token() -> None:
    """Use a token where there is one, as `ray.init` does."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_MODE"] = "token"


def _check_version(client: JobSubmissionClient, ours: str, address: str) -> None:
    theirs = client._server_ray_version or ours
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise RunError(
            f"the cluster at {without_credentials(address)} runs Ray {theirs}, this Manta is for "
            f"Ray {ours}: install ray=={ours} in the cluster's setup commands"
        )


def _unreachable(address: str) -> str:
    return (
        f"no job server answers at {without_credentials(address)}: run 'ray dashboard "
        "cluster.yaml' first and leave it running, or give --address"
    )


def _wants_token(address: str) -> str:
    return (
        f"the cluster at {without_credentials(address)} refuses: it wants its token, and "
        "there is none here or another; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a "
        "file with it (on the head it is in ~/.ray/auth_token)"
    )

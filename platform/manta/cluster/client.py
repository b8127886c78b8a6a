"""Connect to a cluster's job server: its address, its token, and why it can't be reached."""

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

DEFAULT = "http://127.0.0.1:8265"  # where `ray dashboard` forwards the job server to
ADDRESS, RAY_ADDRESS = "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"
CONNECT_SECONDS = 5.0
# These loggers set their own level when their module is imported, so ours is set after that.
CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


def connect(address: str | None = None) -> JobSubmissionClient:
    """A client of the job server at `address`, by default the one that `ray job submit` would use.

    Raises:
        RunError: if no server answers, it refuses the token, or it runs another version of Ray.
    """
    address = address or os.environ.get(ADDRESS) or os.environ.get(RAY_ADDRESS) or DEFAULT
    if address.startswith(("http://", "https://")):
        _refuse_unreachable(address)
    _offer_token()
    import ray
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Ray prefers the address in this variable to its argument.
    os.environ[ADDRESS] = address
    with errors(address):
        client = JobSubmissionClient(address)
    _check_version(client, ray.__version__, address)
    return client


@contextmanager
def errors(address: str) -> Iterator[None]:
    """Turn what requests to the job server at `address` raise into `RunError`."""
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
    """Refuse an address that doesn't answer at once; Ray's own request would wait for minutes."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        raise RunError(f"{_unreachable(address)} ({error.strerror or error})") from None


def _offer_token() -> None:
    """Send the token of this machine, if it has one, as `ray.init` does."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_MODE"] = "token"


def _check_version(client: JobSubmissionClient, ours: str, address: str) -> None:
    theirs = client._server_ray_version or ours
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise RunError(
            f"the cluster at {without_credentials(address)} runs Ray {theirs}, but this machine "
            f"has Ray {ours}: have the cluster's setup commands install ray=={ours}"
        )


def _unreachable(address: str) -> str:
    return (
        f"no job server answers at {without_credentials(address)}: run 'ray dashboard "
        "cluster.yaml' first and leave it running, or give --address"
    )


def _wants_token(address: str) -> str:
    return (
        f"the cluster at {without_credentials(address)} refuses the request: it requires its "
        "token, and this machine has none or a different one; copy ~/.ray/auth_token from the "
        "head, and set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the path of the copy"
    )

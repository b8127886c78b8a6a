"""Check that a Ray cluster answers before `ray.init`, which would try for a quarter of an hour."""

from __future__ import annotations

import os
import socket

from manta.config.errors import RunError

RAY_ADDRESS = "RAY_ADDRESS"
CONNECT_SECONDS = 5.0
# A running head answers in milliseconds, but its machine may be busy.
ANSWER_SECONDS = 15.0


def check_head(address: str, given: str | None = None) -> None:
    """Check that a cluster's head answers.

    Args:
        address: the address for `ray.init`: "auto" or host:port.
        given: the address as it was given to the command; None if it is from RAY_ADDRESS.

    Raises:
        RunError: saying what was tried, and the remedy.
    """
    where, remedy = _named(address, given)
    if "://" in address:
        raise RunError(
            f"{where} is not the address of a cluster's head, which is auto or HOST:6379: run "
            "this on a machine of the cluster, or send it as a job: manta submit"
        )
    found = _on_this_machine(where, remedy) if address == "auto" else address
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except ValueError:
        raise RunError(f"{where} is not of the form HOST:PORT; {remedy}") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(f"{where}: no Ray answers there ({why}); {remedy}") from None
    if not os.environ.get("RAY_USE_TLS") and not _speaks_grpc(found):
        raise RunError(
            f"{where}: the server there does not answer as a Ray head does, or no longer does; "
            f"{remedy}"
        )


def _named(address: str, given: str | None) -> tuple[str, str]:
    """How messages name the address, and their remedy."""
    if given is not None:
        return f"--address {given}", "start Ray there ('ray start --head'), or leave --address out"
    return (
        f"the cluster at {address}, which the variable {RAY_ADDRESS} names",
        f"unset {RAY_ADDRESS} to use a Ray of this command's own, or give --address",
    )


def _on_this_machine(where: str, remedy: str) -> str:
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return str(canonicalize_bootstrap_address("auto"))
    except ConnectionError:
        raise RunError(f"{where}: no Ray runs on this machine; {remedy}") from None


def _speaks_grpc(address: str) -> bool:
    """Whether a gRPC server answers; an open port may be another program's."""
    import grpc  # type: ignore[import-untyped]

    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True

"""A cluster that does not answer: told in seconds, with what named it and the remedy."""

from __future__ import annotations

import socket

import pytest

from manta.cluster import reach, session
from manta.cluster.reach import check_head
from manta.cluster.session import cluster_of, ray_session
from manta.config.errors import RunError


@pytest.fixture
def port() -> int:
    """Of which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_the_variable_is_named_before_ray_is_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # This process may have a Ray for other tests, which a session would go on with.
    monkeypatch.setattr(session, "_is_connected", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(RunError, match="unset RAY_ADDRESS to use a Ray of"), ray_session():
        pass
    assert capsys.readouterr().out == f"connecting to Ray at 127.0.0.1:{port} …\n"


def test_an_address_that_was_given_is_named(port: int) -> None:
    with pytest.raises(RunError, match=f"--address 127.0.0.1:{port}: no Ray answers there"):
        check_head(f"127.0.0.1:{port}", f"127.0.0.1:{port}")


def test_what_listens_must_be_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket of something else, or of a head that is stopped, takes connections."""
    monkeypatch.setattr(reach, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RunError, match="does not answer as a Ray head"):
            check_head(address, address)


def test_a_head_answers(ray_local: None) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    check_head(address, address)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_other_doors_of_a_cluster_are_told_apart(address: str) -> None:
    with pytest.raises(RunError, match=r"auto or HOST:6379.*manta submit"):
        check_head(address)
    with pytest.raises(RunError, match="not of the form HOST:PORT"):
        check_head("head")


def test_local_is_a_ray_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_of() is None
    assert cluster_of("head:6379") == "head:6379"

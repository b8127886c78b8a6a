"""Sockets in folders whose paths are short enough."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from manta.storage.socket_folder import LONGEST, fits, socket_folder


def test_a_deep_folder_for_temporary_files_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("ä" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with socket_folder("socket") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    assert not folder.exists()


def test_bytes_count() -> None:
    assert fits("/" + "a" * (LONGEST - 3), "s")
    assert not fits("/" + "a" * (LONGEST - 3), "ä")

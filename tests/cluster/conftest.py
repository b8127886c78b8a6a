"""A machine that clusters can be launched from."""

from __future__ import annotations

import pytest
from cluster_files import ROOT

from manta.cluster import check_software


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    """A machine that has all that launching takes: programs, a token, credentials."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ssh", "rsync", "kubectl"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o600)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mock")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mock")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    # Google's library is not in the lock file: any other stands for it.
    monkeypatch.setitem(
        check_software.LIBRARIES, check_software.NodeProvider.GCP, ("yaml", "google")
    )
    return tmp_path

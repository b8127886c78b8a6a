"""The `manta` command as a process of its own."""

from __future__ import annotations

import subprocess
import sys


def manta(*arguments: str) -> subprocess.Popen[str]:
    """Start the command, its output on a pipe, in a session that signals can be sent to."""
    return subprocess.Popen(
        [sys.executable, "-m", "manta.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

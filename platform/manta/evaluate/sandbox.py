"""Code that a model wrote, run with its unit test in a process of its own, with limits.

The process has no environment of ours, an empty folder to work in, no input, and limits of time,
memory, files and processes; where the kernel lets it, also no network. What it does NOT have is a
view of its own of the file system: it runs as the same user, can read what that user can read, and
write where that user can write. It is made for code that is wrong, not for code that attacks. Run
answers of a model that you don't trust in a container or virtual machine.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from manta.config.evaluation import SandboxSection

CHILD = Path(__file__).with_name("sandbox_child.py")
MEGABYTE = 2**20
# Bytes of the process's messages that are kept.
SAID_BYTES = 2000


def run_test(code: str, test: str, limits: SandboxSection) -> str:
    """Run code, then its test; "" if both end without an error, else what went wrong.

    Args:
        code: Python that defines what the test uses.
        test: Python that fails with an exception, as by ``assert``.
        limits: limits of the process.
    """
    with tempfile.TemporaryDirectory(prefix="manta-sandbox-") as folder:
        said = Path(folder) / "said"
        work = Path(folder) / "work"
        work.mkdir()
        # A line that only an undisturbed end of the test writes: code that exits has not passed.
        word = secrets.token_hex(16)
        given = {"code": code, "test": test, "word": word, "limits": _limits(limits)}
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=work,
                env={"PATH": os.defpath, "HOME": str(work), "LC_ALL": "C.UTF-8"},
                start_new_session=True,
                close_fds=True,
            )
            late = _waited(process, json.dumps(given).encode(), limits.seconds)
        if late:
            return f"not done after {limits.seconds:g} s"
        lines = _tail(said).splitlines()
        if lines and lines[-1] == word:
            return ""
        if process.returncode < 0:
            return f"killed by {signal.Signals(-process.returncode).name}"
        return lines[-1] if lines else f"ended with code {process.returncode} before its test did"


def _limits(limits: SandboxSection) -> dict[str, int]:
    return {
        "RLIMIT_AS": limits.memory_mb * MEGABYTE,
        "RLIMIT_FSIZE": limits.file_mb * MEGABYTE,
        "RLIMIT_CPU": int(limits.seconds) + 1,
        "RLIMIT_NPROC": limits.processes,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }


def _waited(process: subprocess.Popen[bytes], given: bytes, seconds: float) -> bool:
    """Wait for the process; end it and all that it started when it is late, and say so."""
    try:
        process.communicate(given, timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        with suppress(ProcessLookupError):  # what it started may outlive it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(file: Path) -> str:
    with file.open("rb") as read:
        read.seek(max(0, file.stat().st_size - SAID_BYTES))
        return read.read().decode(errors="replace").strip()

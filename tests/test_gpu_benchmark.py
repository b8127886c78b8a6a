"""The benchmark that only a GPU can run for real still fits the engine that it takes apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/gpu.py"


def test_both_loops_run_and_agree() -> None:
    quick = ["--device", "cpu", "--quick", "--columns", "eager", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *quick], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Best engine (eager) / best bare loop (eager)" in done.stdout

"""The HTML report of a run, made from its files alone."""

from __future__ import annotations

from pathlib import Path


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into `run_dir`."""
    return run_dir / "report.html"

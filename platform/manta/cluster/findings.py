"""The result of a check of `manta doctor`: ok, warning or failed, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from rich.console import Console
from rich.table import Table
from rich.text import Text


class CheckResult(Enum):
    """Result of a check; the value is the word that people see."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


STYLES = {CheckResult.OK: "green", CheckResult.WARNING: "yellow", CheckResult.FAILED: "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line that `manta doctor` prints.

    Attributes:
        verdict: result of the check.
        check: the subject of the check, in a word or two.
        found: the observation, in one clause.
        remedy: advice to the user; empty only if all is well.
    """

    verdict: CheckResult
    check: str
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        assert self.remedy or self.verdict is CheckResult.OK, f"{self.check}: say what to do"


def ok(check: str, found: str) -> Finding:
    """The finding of a check that found nothing wrong."""
    return Finding(CheckResult.OK, check, found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """The finding of a check on what works, but may not be what the user wants."""
    return Finding(CheckResult.WARNING, check, found, remedy)


def failed(check: str, found: str, remedy: str) -> Finding:
    """The finding of a check on what can't work, or isn't safe."""
    return Finding(CheckResult.FAILED, check, found, remedy)


def failures(findings: Iterable[Finding]) -> int:
    """Number of `findings` that are failed."""
    return sum(finding.verdict is CheckResult.FAILED for finding in findings)


def show(findings: list[Finding], console: Console) -> None:
    """Print one line for each finding, its remedy below it, and the count."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        style = STYLES[finding.verdict]
        table.add_row(Text(finding.verdict.value, style), Text(finding.check), Text(finding.found))
        if finding.remedy:
            table.add_row("", "", Text(f"→ {finding.remedy}", style))
    console.print(table)
    counts = [sum(f.verdict is verdict for f in findings) for verdict in CheckResult]
    console.print(f"{counts[0]} ok, {counts[1]} warnings, {counts[2]} failed")

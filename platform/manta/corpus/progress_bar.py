"""The progress bar of `manta prepare`."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from manta.config.units import SUFFIXES


class PrepareProgress:
    """A progress bar with one line a phase: documents, tokens, MB/s, time left."""

    def __init__(self, enabled: bool):
        self.console = Console(stderr=True, quiet=not enabled)
        # Narrow enough for a terminal of 80 columns.
        self._bar = Progress(
            _column("{task.description:<10}"),
            BarColumn(bar_width=10),
            _column("{task.percentage:>3.0f}%"),
            _column("{task.fields[counts]}"),
            _Speed(table_column=Column(no_wrap=True)),
            _column("ETA"),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=self.console,
            disable=not enabled,
        )

    def __enter__(self) -> PrepareProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def phase(self, name: str, total_bytes: int) -> Phase:
        """Begin a phase that works through `total_bytes` of input."""
        return Phase(self._bar, self._bar.add_task(name, total=total_bytes, counts=""))

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True)


class Phase:
    """One pass over the input."""

    def __init__(self, bar: Progress, task: TaskID):
        self._bar = bar
        self._task = task
        self._documents = 0
        self._tokens = 0

    def found(self, size: int, documents: int, tokens: int = 0) -> None:
        """Count what an earlier attempt has done, which doesn't count for the speed."""
        self._count(documents, tokens)
        self._bar.reset(self._task, completed=size, counts=self._counts())

    def advance(self, size: int, documents: int, tokens: int = 0) -> None:
        """Count what this attempt has done since the last call."""
        self._count(documents, tokens)
        self._bar.update(self._task, advance=size, counts=self._counts())

    def done(self) -> None:
        """End the phase."""
        self._bar.stop_task(self._task)

    def _count(self, documents: int, tokens: int) -> None:
        self._documents += documents
        self._tokens += tokens

    def _counts(self) -> str:
        counts = {"documents": self._documents, "tokens": self._tokens}
        return ", ".join(f"{short(count)} {name}" for name, count in counts.items() if count)


class _Speed(ProgressColumn):
    """Input read per second: the current speed, and the average once the phase has ended."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("– MB/s" if speed is None else f"{speed / 1e6:.3g} MB/s")


def _column(format_: str) -> TextColumn:
    return TextColumn(format_, table_column=Column(no_wrap=True))


def short(count: int) -> str:
    """A count with three digits: ``734``, ``3.19M``."""
    for suffix in ("T", "B", "M", "K"):
        if count >= SUFFIXES[suffix]:
            return f"{count / SUFFIXES[suffix]:.3g}{suffix}"
    return str(count)

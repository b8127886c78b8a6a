"""What people see while a run trains: a live line, notes above it, a summary at the end.

On a terminal the line is redrawn in place. Elsewhere (a file, a pipe, a job's log) it is
printed now and then as plain text, without control characters. After an error of the
console, nothing more is shown; the training goes on.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from manta.config.metrics import VAL_LOSS
from manta.record.run_state import RunState
from manta.show.console.header import model_line
from manta.show.console.live_line import LiveLine
from manta.show.console.run_summary import header_lines, summary_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

TERMINAL_SECONDS = 0.1
PLAIN_SECONDS = 10.0
# Libraries whose warnings repeat what Manta says itself, such as that a server can't be reached.
CHATTY = ("wandb", "urllib3", "git", "filelock", "fsspec", "asyncio", "httpx")


def quiet_libraries() -> None:
    """Silence warnings of libraries, which would break the live line; errors still show."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


class RunConsole:
    """The live line, the notes and the summary of one run."""

    def __init__(
        self,
        state: RunState,
        *,
        enabled: bool,
        head: Sequence[str] = (),
        file: TextIO | None = None,
        width: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show the run's header and the live line.

        Args:
            state: the run's record.
            enabled: whether to show anything at all.
            head: further lines for the header.
            file: the stream to write to; standard output if None.
            width: columns of text; the terminal's own if None.
            clock: a monotonic clock, in seconds.
        """
        self._enabled = enabled
        self._clock = clock
        self._shown = float("-inf")
        self._unshown = False
        self._model, self._last_step = "", state.total_steps
        self._line = LiveLine(state.total_steps, state.total_tokens, clock)
        self._live: Live | None = None
        if enabled:
            quiet_libraries()
            self._console = _console(file or sys.stdout, width)
            self._do(lambda: self._open(state, head))

    def group_started(self, state: RunState) -> None:
        """Show that a worker group begins to train."""
        group = state.groups[-1]
        self._line.group_started(group.world_size, group.step, group.tokens)
        model = model_line(state)
        if model != self._model:  # printed again if the devices change
            self._model = model
            self._do(lambda: self._print(f"  {model}"))
        self.note(
            f"{group.world_size} worker{'' if group.world_size == 1 else 's'} "
            f"training from step {group.step:,}"
        )

    def group_ended(self, reason: str) -> None:
        """Show that the worker group ended; another may follow."""
        self._line.wait("waiting for workers")
        self.note(f"workers ended: {reason}")

    def row(self, row: Mapping[str, Any]) -> None:
        """Show a row, unless one was shown just before."""
        self._line.update(row)
        self._unshown = True
        pause = TERMINAL_SECONDS if self._live else PLAIN_SECONDS
        if row["step"] == self._last_step and VAL_LOSS not in row and not self._live:
            return  # the last step gets one line, with its validation loss if there is one
        if VAL_LOSS in row or self._clock() - self._shown >= pause:
            self._show()

    def busy(self, doing: str, share: float) -> None:
        """Show what the workers do between steps, such as evaluating.

        Args:
            doing: the activity, such as "evaluating"; "" once the workers train again.
            share: the share of the activity that is done, 0 to 1; 0 while unknown.
        """
        self._line.busy(doing, share)
        if self._live or (doing and self._clock() - self._shown >= PLAIN_SECONDS):
            self._show()

    def note(self, message: str) -> None:
        """Print one line above the live line."""
        stamp = datetime.now().strftime("%H:%M:%S")
        self._do(lambda: self._print(f"{stamp}  {message}"))
        if self._live:
            self._show()

    def summary(self, state: RunState, run_dir: str) -> None:
        """Remove the live line and print the summary."""
        if self._unshown and not self._live:
            self._show()
        self.close()
        self._do(lambda: self._print(_table(summary_rows(state, run_dir))))

    def close(self) -> None:
        """Remove the live line and restore the terminal."""
        live, self._live = self._live, None
        if live:
            self._do(live.stop)

    def _open(self, state: RunState, head: Sequence[str]) -> None:
        for line in (*header_lines(state), *(f"  {line}" for line in head)):
            self._print(line)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            from rich.live import Live

            self._live = Live(
                self._renderable(), console=self._console, auto_refresh=False, transient=True
            )
            self._live.start()

    def _show(self) -> None:
        self._shown = self._clock()
        self._unshown = False
        if self._live:
            live = self._live
            self._do(lambda: live.update(self._renderable(), refresh=True))
        else:
            self._do(lambda: self._print(self._line.plain()))

    def _renderable(self) -> Any:
        from rich.text import Text

        # Leave one column free: some terminals wrap after writing to the last one.
        text = self._line.text(self._console.width - 1)
        return Text(text, style="bold cyan", no_wrap=True, overflow="crop")

    def _print(self, text: str | Text) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _do(self, action: Callable[[], object]) -> None:
        """Run `action`; a closed pipe or an encoding error ends the output, not the run."""
        if not self._enabled:
            return
        try:
            action()
        except (OSError, ValueError):
            self._enabled = False


def _console(file: TextIO, width: int | None) -> Console:
    from rich.console import Console

    class QuietWhenBroken(Console):
        """Rich ends the process at a broken pipe; a training must go on."""

        def on_broken_pipe(self) -> None:
            self.quiet = True

    return QuietWhenBroken(file=file, width=width)


def _table(rows: list[tuple[str, str]]) -> Text:
    """The table as plain lines, so that a long path or command wraps and can be copied."""
    from rich.text import Text

    width = max(len(name) for name, _ in rows) + 2
    lines = [Text(name.ljust(width), style="dim").append(value, "default") for name, value in rows]
    return Text("\n").join(lines)

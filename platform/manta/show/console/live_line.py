"""The one line that shows a run's progress: its parts, and how they fit the width."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from manta.config.metrics import VAL_LOSS
from manta.record import number_format

# Number of last rows that the time left is estimated from: enough to even out evaluations and
# checkpoints, few enough to follow a change of the world size.
SPEED_ROWS = 200


class LiveLine:
    """Keeps the latest values and puts them into one line."""

    def __init__(
        self, total_steps: int, total_tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total_steps = total_steps
        self._total_tokens = total_tokens
        self._clock = clock
        self._row: dict[str, Any] = {}
        self._speed: deque[tuple[float, int]] = deque(maxlen=SPEED_ROWS)
        self._workers = 0
        self._waiting = "starting workers"
        self._doing = ""

    def group_started(self, world_size: int, step: int, tokens: int) -> None:
        """Take the start of a worker group; its speed is measured anew."""
        self._workers = world_size
        self._waiting = ""
        self._row = {**self._row, "step": step, "tokens": tokens, "tokens_per_s": None}
        self._speed.clear()
        self._speed.append((self._clock(), tokens))

    def wait(self, reason: str) -> None:
        """Show `reason` until a worker group starts."""
        self._waiting, self._doing = reason, ""

    def busy(self, doing: str, share: float) -> None:
        """Show what workers do between steps and the share that is done; "" while they train."""
        self._doing = f"{doing} {share:.0%}" if doing and share else doing

    def update(self, row: Mapping[str, Any]) -> None:
        """Take a training or validation row."""
        self._row.update(row)
        if "loss" in row:
            self._speed.append((self._clock(), int(row["tokens"])))

    def text(self, width: int) -> str:
        """The line, worded as fully as `width` columns allow."""
        if not self._row:
            return self._beginning()[:width]
        for parts in (self._roomy(), self._tight(), self._tightest()):
            line = "  ".join(part for part in parts if part)
            if len(line) <= width:
                return line
        return line[: max(0, width - 1)] + "…"

    def plain(self) -> str:
        """The line for a file or a pipe."""
        return "  ".join(part for part in self._roomy() if part) if self._row else self._beginning()

    def _beginning(self) -> str:
        """The line before there are rows."""
        return f"{self._waiting}{f': {self._doing}' if self._doing else ''} …"

    def _roomy(self) -> list[str]:
        row = self._row
        share = f" ({row['tokens'] / self._total_tokens:.1%})" if self._total_tokens else ""
        val_loss = row.get(VAL_LOSS)
        return [
            f"step {row['step']:,}/{self._total_steps:,}{share}",
            f"{number_format.count(row['tokens'])} tokens",
            f"loss {number_format.loss(row.get('loss'))}",
            f"val {number_format.loss(val_loss)}" if val_loss is not None else "",
            f"lr {number_format.rate(row.get('lr'))}",
            f"{self._tokens_per_s()} tok/s",
            f"MFU {row['mfu']:.0%}" if row.get("mfu") is not None else "",
            f"{self._workers} worker{'' if self._workers == 1 else 's'}",
            self._waiting or self._doing or f"ETA {self._time_left()}",
        ]

    def _tight(self) -> list[str]:
        row = self._row
        return [
            f"{row['step']}/{self._total_steps}",
            f"{number_format.count(row['tokens'])} tok",
            f"loss {number_format.loss(row.get('loss'))}",
            f"lr {number_format.rate(row.get('lr'))}",
            f"{self._tokens_per_s()} tok/s",
            f"{self._workers}w",
            "waiting" if self._waiting else self._doing or f"ETA {self._time_left()}",
        ]

    def _tightest(self) -> list[str]:
        row = self._row
        return [
            f"{row['step']}",
            number_format.count(row["tokens"]),
            number_format.loss(row.get("loss")),
            number_format.rate(row.get("lr")),
            f"{self._tokens_per_s()}/s",
            f"{self._workers}w",
            "waiting" if self._waiting else self._doing or self._time_left(),
        ]

    def _tokens_per_s(self) -> str:
        speed = self._row.get("tokens_per_s")
        return "–" if speed is None else number_format.count(speed)

    def _time_left(self) -> str:
        """The time left, from the tokens of the last rows and the wall-clock time between them."""
        if len(self._speed) < 2:
            return "–"
        (begin, first), (end, last) = self._speed[0], self._speed[-1]
        if end <= begin or last <= first:
            return "–"
        left = max(0, self._total_tokens - last)
        return number_format.duration(left * (end - begin) / (last - first))

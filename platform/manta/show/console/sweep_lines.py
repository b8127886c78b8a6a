"""Lines of text on where a sweep stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from manta.record import number_format
from manta.record.sweep_standing import SweepStanding, TrialStanding


def sweep_lines(found: SweepStanding) -> Iterator[str]:
    """What `manta sweep-status` prints."""
    counts = Counter(trial.status for trial in found.trials)
    listed = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    yield f"{found.name}: {found.status}; {len(found.trials)} trials: {listed}"
    yield f"tokens  {_tokens(found)}"
    if found.cost is not None:
        more = f", about {number_format.money(found.cost_left)} to come" if found.cost_left else ""
        yield f"cost    {number_format.money(found.cost)} so far{more}"
    if found.requests_waiting:
        yield f"asked   {found.requests_waiting} changes, which the sweep takes at its next turn"
    yield ""
    heads = ("trial", "status", "tokens", "", found.metric, "rung", "from", "workers", "tokens/s")
    yield from aligned([(*heads, "parameters"), *map(_cells, found.trials)])
    reasons = [f"{trial.name}: {trial.reason}" for trial in found.trials if trial.reason]
    yield from ["", *reasons] if reasons else []


def _tokens(found: SweepStanding) -> str:
    planned = found.trained + found.left
    share = f" ({found.trained / planned:.0%})" if planned else ""
    trained, all_of_them = number_format.count(found.trained), number_format.count(planned)
    text = f"{trained} of {all_of_them} trained{share}"
    if found.seconds_left:
        text += f", about {number_format.duration(found.seconds_left)} left"
    return text


def _cells(trial: TrialStanding) -> tuple[str, ...]:
    count = number_format.count
    return (
        trial.name,
        trial.status,
        f"{count(trial.tokens)} of {count(trial.end_tokens)}",
        f"{trial.tokens / trial.end_tokens:.0%}" if trial.end_tokens else "",
        number_format.loss(trial.value),
        "" if trial.rung is None else count(trial.rung),
        "" if trial.parent is None else f"{trial.parent}@{trial.fork_step}",
        "" if trial.workers is None else str(trial.workers),
        "" if trial.tokens_per_s is None else count(trial.tokens_per_s),
        trial.label,
    )


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines whose columns begin below each other; columns without content are left out."""
    kept = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    for row in zip(*kept, strict=True):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()

"""What a tuning found, in lines for the terminal and the head of its page."""

from __future__ import annotations

from collections.abc import Iterator

from manta.recommend.measured import Interval, Saving
from manta.recommend.tuning_phases import Tuning
from manta.recommend.tuning_state import TuningState
from manta.record import number_format
from manta.storage.run_folder import TUNED, TUNING_PAGE


def summary(tuning: Tuning, state: TuningState) -> list[str]:
    """The result of each phase, and where the files are."""
    return [
        "",
        *findings(tuning, state),
        f"page         {tuning.place / TUNING_PAGE}",
        f"to train it  manta train {tuning.place / TUNED}",
    ]


def findings(tuning: Tuning, state: TuningState) -> Iterator[str]:
    """A line for each finding, and one for each remark on it."""
    if state.micro_batch:
        found = state.micro_batch
        yield f"micro_batch  {found.recommended}: as fast as any; up to {found.largest} fit"
    if state.range:
        recommended = interval(state.range.recommended, "rate")
        yield f"rate         {recommended}; the run had {number_format.rate(tuning.peak)}"
        edge = state.range.edge
        yield f"edge         {'not reached' if edge is None else f'diverges at {edge:.3g}'}"
        yield from (f"note         {note}" for note in state.range.notes)
    if state.critical:
        for each in state.critical.at:
            depth = number_format.count(each.depth)
            more = "at least " if each.at_least else "at most " if each.at_most else ""
            noise = each.noise_scale
            beside = "" if noise is None else f"; gradient noise scale {noise:.0f}"
            shown = f"{more}{interval(each.size, 'size')} samples after {depth} tokens"
            yield f"critical     {shown}{beside}"
        yield f"batch        {stairs_text(tuning, state)}"
        yield from (f"note         {note}" for note in state.critical.notes)
    yield from (f"saving       {saving_text(each)}" for each in state.savings)
    if state.confirm:
        yield f"confirmed    {state.confirm.verdict}"


def interval(found: Interval, kind: str) -> str:
    """A value, with its interval if that is known."""
    shown = "{:.3g}" if kind == "rate" else "{:.0f}"
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f" ({shown.format(found.low)} to {shown.format(found.high)})"
    return f"{shown.format(found.value)}{ends}"


def stairs_text(tuning: Tuning, state: TuningState) -> str:
    """The batch sizes over tokens."""
    first, *more = tuning.stairs(state)
    steps = "".join(f", {size} from {number_format.count(at)}" for at, size in more)
    schedules = (tuning.tuned_schedule(state, constant=True), tuning.tuned_schedule(state))
    counts = f"{schedules[1].steps:,} steps instead of {schedules[0].steps:,}"
    return f"{first[1]}{steps} tokens: {counts}" if more else f"{first[1]} all the way"


def saving_text(each: Saving) -> str:
    """Time and money on a number of devices, beside those of the constant batch."""
    share = 1 - each.tuned_hours / each.constant_hours
    text = (
        f"{each.devices} device{'s' if each.devices > 1 else ''}: "
        f"{each.tuned_hours:.3g} h instead of {each.constant_hours:.3g} h ({share:.0%} less)"
    )
    if each.tuned_money is not None and each.constant_money is not None:
        tuned, constant = map(number_format.money, (each.tuned_money, each.constant_money))
        text += f", {tuned} instead of {constant}"
    return text

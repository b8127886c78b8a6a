"""The answer of a comparison in sentences, the same in the terminal and on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from manta.record import number_format as words
from manta.show.compare.comparison import ComparedRun, Comparison, Configuration
from manta.show.compare.ranking import RankedConfig, Ranking, View, too_short, trained_equally

# How sure a sentence is: a difference beyond noise, within noise, of unknown noise; or a fact.
Sureness = Literal["clear", "noise", "unknown", "fact"]
MOST_NAMED = 3
NO_SEEDS = (
    "No configuration has two seeds, so seed noise is unknown and a difference may be chance. "
    "Train the best ones again with other seeds."
)

NO_ORDER = (
    "Losses of different objectives have no order, so none of these is the best. Compare by a "
    "metric that means the same in all of them, such as --metric val_term/accuracy of preferences."
)


@dataclass(frozen=True)
class Sentence:
    """One sentence of the verdict, and how sure it is."""

    text: str
    sureness: Sureness


def sentences(comparison: Comparison, ranking: Ranking) -> list[Sentence]:
    """The verdict: the best, its lead at the end and at equal tokens and compute, the cost."""
    rest = [_fates(comparison), _left_out(comparison), _cost(comparison)]
    if len({trial.measured for trial in comparison.trials if trial.measured}) > 1:
        return [Sentence(text, "fact") for text in (NO_ORDER, *rest) if text]
    found = [Sentence(headline(comparison, ranking), "fact")]
    views = [ranking.main, *ranking.matched]
    found += [
        lead(view, ranking) for view in dict.fromkeys(views) if view and len(view.entries) > 1
    ]
    if any(sentence.sureness == "unknown" for sentence in found):
        found.append(Sentence(NO_SEEDS, "fact"))
    if ranking.main and ranking.main.kind == "end" and (text := _lengths(ranking.main)):
        found.append(Sentence(text, "fact"))
    found += [Sentence(text, "fact") for text in rest if text]
    return found


def headline(comparison: Comparison, ranking: Ranking) -> str:
    """The sentence that names the best, with its value."""
    view = ranking.main
    if view is None:
        return "Nothing can be compared yet: no trial has come far enough."
    best = view.entries[0]
    count = len(comparison.configurations) - len(_unseen(comparison))
    of = f" of {count}" if count > 1 else ""
    where = "" if view.kind == "end" else f" {view_name(view)}"
    value = f"{comparison.metric} {value_text(best)}"
    if len(view.entries) == 1 < len(comparison.configurations):
        return f"{best.configuration.label}: {value}{where}; no other has finished yet."
    seeds = f"{seeds_text(best)}{_lost(best.configuration)}"
    return f"Best{of}: #1 {best.configuration.label}, {value}{where} ({seeds})."


def _lost(configuration: Configuration) -> str:
    """A note on a winner some of whose seeds diverged or failed."""
    counted = Counter(trial.status for trial in configuration.trials)
    parts = [f"; {counted[s]} more {s}" for s in ("diverged", "failed") if counted[s]]
    return "".join(parts)


def lead(view: View, ranking: Ranking) -> Sentence:
    """The best against the second in one comparison, and others that are as good."""
    best, second, *_ = view.entries
    assert second.behind is not None
    gap, half = second.behind.gap, second.behind.half
    ahead, next_one = (_named(entry.configuration, ranking) for entry in (best, second))
    begin = f"{_under(view)}: {ahead}"
    if half is None:
        return Sentence(f"{begin} leads {next_one} by {gap:.4f}; seed noise unknown.", "unknown")
    if not second.behind.within_noise:
        return Sentence(
            f"{begin} beats {next_one} by {gap:.4f} ± {half:.4f}: more than seed noise.", "clear"
        )
    alike = [e.configuration for e in view.entries[2:] if e.behind and e.behind.within_noise]
    return Sentence(
        f"{begin} leads {next_one} by only {gap:.4f} ± {half:.4f}: the difference is within seed "
        f"noise{_and_others(alike, ranking)}.",
        "noise",
    )


def _named(configuration: Configuration, ranking: Ranking) -> str:
    """A configuration's rank, and its label unless it is the best, which was just named."""
    number = ranking.ranked.index(configuration) + 1
    return f"#{number}" if number == 1 else f"#{number} ({configuration.label})"


def view_name(view: View) -> str:
    """The name of a comparison: ``at the end``, ``at 20.0M tokens``, …"""
    if view.at is None:
        return "at the end"
    tokens = view.kind == "tokens"
    return f"at {words.count(view.at)} tokens" if tokens else f"at {device_time(view.at)}"


def _under(view: View) -> str:
    """The name of a comparison, as the beginning of a sentence."""
    if view.at is None:
        return "At the end"
    among = ", those that finished" if view.finished else ""
    if view.kind == "tokens":
        return f"At equal tokens ({words.count(view.at)}{among})"
    return f"At equal compute ({device_time(view.at)}{among})"


def value_text(entry: RankedConfig) -> str:
    """``3.1234 ± 0.0040``, or without the noise where it is unknown."""
    half = entry.estimate.half
    return f"{entry.estimate.mean:.4f}" + ("" if half is None else f" ± {half:.4f}")


def behind_text(entry: RankedConfig) -> str:
    """How much worse than the best; with ``≈`` if that is within noise."""
    if entry.behind is None:
        return "best"
    sign = "≈ " if entry.behind.within_noise else ""
    half = "" if entry.behind.half is None else f" ± {entry.behind.half:.4f}"
    return f"{sign}+{entry.behind.gap:.4f}{half}"


def seeds_text(entry: RankedConfig) -> str:
    """The number of seeds of a mean, in words."""
    count = entry.estimate.count
    return "one seed" if count == 1 else f"mean of {count} seeds"


def device_unit(seconds: float) -> tuple[float, str]:
    """A readable unit for device time up to `seconds`: its length in seconds, and its name."""
    if seconds >= 1800:
        return 3600.0, "device-hours"
    return (60.0, "device-minutes") if seconds >= 300 else (1.0, "device-seconds")


def device_time(seconds: float) -> str:
    """``3.21 device-hours``."""
    size, name = device_unit(seconds)
    return f"{amount(seconds / size)} {name}"


def amount(value: float) -> str:
    """A number with three digits, without an exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def status_text(configuration: Configuration) -> str:
    """Statuses other than finished: ``paused``, ``1 finished, 1 diverged``; "" if there is none."""
    counted = Counter(trial.status for trial in configuration.trials)
    if len(counted) == 1:
        status = configuration.trials[0].status
        return "" if status == "finished" else status
    return ", ".join(f"{count} {status}" for status, count in sorted(counted.items()))


def total_device_seconds(comparison: Comparison) -> float | None:
    """Device-seconds of all runs by their records; a shared stretch counts once."""
    return _sum([trial.device_seconds for trial in comparison.trials])


def total_compute(comparison: Comparison) -> float | None:
    """Device-seconds of the steps of all runs; a shared stretch counts once."""
    return _sum([trial.own_compute for trial in comparison.trials])


def total_cost(comparison: Comparison) -> float | None:
    """The cost of all runs by their records; None unless every run has a price."""
    costs = [trial.cost for trial in comparison.trials if trial.device_seconds is not None]
    return None if None in costs else _sum(costs)


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum of the known values; None if all are unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _and_others(alike: list[Configuration], ranking: Ranking) -> str:
    """A phrase for the others after the second that can't be told from the best."""
    if not alike:
        return ""
    named = [f"#{ranking.ranked.index(configuration) + 1}" for configuration in alike[:MOST_NAMED]]
    if more := len(alike) - len(named):
        named.append(f"{more} more")
    return f", as it is to {', '.join(named[:-1])}{' and ' if named[1:] else ''}{named[-1]}"


def _lengths(view: View) -> str:
    """A caution if the finished trials were not trained equally long."""
    if trained_equally(view):
        return ""
    reached = [trial.reached for entry in view.entries for trial in entry.trials]
    return (
        f"They were not trained equally long: {words.count(min(reached))} to "
        f"{words.count(max(reached))} tokens. The difference at the end may come from that."
    )


def _fates(comparison: Comparison) -> str:
    """A sentence on the trials that did not finish."""
    counted = Counter(trial.status for trial in comparison.trials)
    finished = counted.pop("finished", 0)
    if not counted:
        return ""
    rest = ", ".join(f"{count} {status}" for status, count in counted.items())
    noun = "trials" if comparison.tokens else "runs"
    return f"Of {len(comparison.trials)} {noun} {finished} finished, {rest}."


def _unseen(comparison: Comparison) -> list[Configuration]:
    """Configurations without a trial that came far enough to be compared."""
    return [
        one
        for one in comparison.configurations
        if any(map(_began, one.trials)) and all(map(too_short, one.trials))
    ]


def _began(trial: ComparedRun) -> bool:
    return trial.device_seconds is not None


def _left_out(comparison: Comparison) -> str:
    """A sentence on trials left out because they have fewer than two evaluations."""
    found = [trial for trial in comparison.trials if _began(trial) and too_short(trial)]
    if not found:
        return ""
    named = [
        f"{trial.label} ({trial.status} at {words.count(trial.reached)} tokens)"
        for trial in found[:MOST_NAMED]
    ]
    if more := len(found) - len(named):
        named.append(f"{more} more")
    return f"Left out, with fewer than two values of {comparison.metric}: {', '.join(named)}."


def _cost(comparison: Comparison) -> str:
    """Sentences on the device time and cost of all, and on what sharing saved."""
    seconds, compute = total_device_seconds(comparison), total_compute(comparison)
    cost, parts = total_cost(comparison), []
    if seconds is not None:
        money = "" if cost is None else f", at a cost of {words.money(cost)}"
        steps = "" if compute is None else f"; {device_time(compute)} of it in training steps"
        parts.append(f"In all {device_time(seconds)} were used{money}{steps}.")
    if comparison.saved > 1:
        parts.append(
            f"Shared beginnings were trained once: {words.count(comparison.trained_tokens)} "
            f"tokens instead of {words.count(comparison.apart_tokens)}, "
            f"{comparison.saved:.1f} times fewer."
        )
    return " ".join(parts)

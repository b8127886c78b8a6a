"""The stage tree of a sweep: which trial trained which tokens, and for which trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from manta.record import number_format as words
from manta.show.compare.chart_style import cut, metric_colour, metric_key, metric_range
from manta.show.compare.comparison import ComparedRun, Comparison
from manta.show.compare.ranking import Ranking
from manta.show.pages.charts import GREY, INK, PALE, SOFT, TOKENS, Figure, rows

# Most rows whose names can be read beside their bars.
MOST_NAMES = 60
# Status of a trial that did not finish → the sign at the end of its bar, and its colour.
SIGNS = {
    "diverged": ("cross", "var(--care)"),
    "failed": ("cross", "var(--c1)"),
    "lost": ("cross", SOFT),
    "paused": ("bar", INK),
    "stopped": ("square", INK),
    "running": ("arrow", "var(--c6)"),
    "waiting": ("ring", SOFT),
}
GOING = ("waiting", "running", "paused")


def tree(comparison: Comparison, ranking: Ranking) -> Figure | None:
    """A bar for the tokens that each trial trained itself, joined to its parent's bar."""
    if comparison.tokens is None or all(trial.parent is None for trial in comparison.trials):
        return None
    trials = in_tree_order(comparison.trials, ranking)
    row_of = {trial.name: number for number, trial in enumerate(trials)}
    named = len(trials) <= MOST_NAMES
    seeds = len({trial.seed for trial in trials}) > 1
    values = [trial.value for trial in trials if trial.value is not None]
    low, high = metric_range(values, comparison.mode)
    end = max(max(trial.reached, trial.end_tokens) for trial in trials)
    present = {trial.status for trial in trials}
    return rows(
        "Stage tree: what was trained, and what was shared",
        [_label(trial, seeds=seeds) for trial in trials] if named else [],
        x={**TOKENS, "range": [0, 1.02 * end]},
        height=60 + len(trials) * (22 if named else 9),
        count=len(trials),
        bars=[
            {
                "row": number,
                "from": min(trial.fork_tokens, trial.reached),
                "to": min(trial.fork_tokens, trial.reached) + trial.own_tokens,
                "color": PALE
                if trial.value is None
                else metric_colour(trial.value, low, high, comparison.mode),
                "text": _about(comparison, trial),
            }
            for number, trial in enumerate(trials)
            if trial.own_tokens
        ],
        lines=[*_plans(trials), *_forks(trials, row_of), *_shared(trials, row_of)],
        dots=list(_signs(trials)),
        legend=[
            ("shared with others", INK, "line"),
            *(
                (status, color, shape)
                for status, (shape, color) in SIGNS.items()
                if status in present
            ),
        ],
        scale=metric_key(low, high, comparison.mode),
        note=_note(comparison),
        whole=True,
    )


def _note(comparison: Comparison) -> str:
    return (
        "A bar is what a trial trained itself; the line in it is the part that other trials share. "
        f"{words.count(comparison.trained_tokens)} tokens were trained; without sharing, it would "
        f"be {words.count(comparison.apart_tokens)}: {comparison.saved:.2f} times as many."
    )


def _label(trial: ComparedRun, *, seeds: bool) -> str:
    return cut(trial.label) + (f"  s{trial.seed}" if seeds else "")


def in_tree_order(trials: Sequence[ComparedRun], ranking: Ranking) -> list[ComparedRun]:
    """The trials in an order in which lines to children don't cross: the latest fork first."""
    rank = {
        trial: number
        for number, configuration in enumerate(ranking.ranked)
        for trial in configuration.trials
    }
    children: dict[str | None, list[ComparedRun]] = {}
    for trial in trials:
        children.setdefault(trial.parent, []).append(trial)
    found = []
    todo = sorted(children.get(None, []), key=lambda t: (t.seed, rank[t]), reverse=True)
    while todo:
        trial = todo.pop()
        found.append(trial)
        below = children.get(trial.name, [])
        todo += sorted(below, key=lambda t: (t.fork_tokens, -rank[t]))
    return found


def _about(comparison: Comparison, trial: ComparedRun) -> str:
    value = "no value yet" if trial.value is None else f"{comparison.metric} {trial.value:.4f}"
    lines = [f"{trial.label}, seed {trial.seed}", f"{trial.status}, {value}"]
    lines.append(
        f"{words.count(trial.own_tokens)} tokens of its own, "
        f"{words.count(trial.shared_tokens)} from {trial.parent or 'nobody'}"
    )
    if trial.reason:
        lines.append(cut(trial.reason, 90))
    return "\n".join(lines)


def _plans(trials: Sequence[ComparedRun]) -> Iterator[Figure]:
    """The stretches that trials have not trained."""
    for number, trial in enumerate(trials):
        begin = max(trial.reached, trial.fork_tokens)
        if trial.status in GOING and trial.end_tokens > begin:
            points = [(begin, number), (trial.end_tokens, number)]
            yield {"points": points, "color": GREY, "width": 1.5, "dash": True}


def _forks(trials: Sequence[ComparedRun], row_of: dict[str, int]) -> Iterator[Figure]:
    for trial in trials:
        if trial.parent is not None:
            points = [(trial.fork_tokens, row_of[name]) for name in (trial.parent, trial.name)]
            yield {"points": points, "color": SOFT}


def _shared(trials: Sequence[ComparedRun], row_of: dict[str, int]) -> Iterator[Figure]:
    """The stretch of each trial that other trials share, as far as it was trained."""
    last: dict[str, int] = {}
    for trial in trials:
        if trial.parent is not None:
            last[trial.parent] = max(last.get(trial.parent, 0), trial.fork_tokens)
    for trial in trials:
        end = min(last.get(trial.name, 0), trial.reached)
        if end > trial.fork_tokens:
            row = row_of[trial.name]
            yield {"points": [(trial.fork_tokens, row), (end, row)], "color": INK, "width": 2.5}


def _signs(trials: Sequence[ComparedRun]) -> Iterator[Figure]:
    for number, trial in enumerate(trials):
        if trial.status in SIGNS:
            shape, color = SIGNS[trial.status]
            about = f"{trial.label}, seed {trial.seed}\n{trial.status}"
            at = trial.reached or trial.fork_tokens
            yield {"row": number, "x": at, "shape": shape, "color": color, "text": about}

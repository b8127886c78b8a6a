"""What a sweep will train and what that costs, before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.tree import Tree as RichTree

from manta.corpus.manifest import Manifest
from manta.record import number_format
from manta.show.console.remarks import PlannedRun, remarks
from manta.tune.sweep_plan import Outline
from manta.tune.tree import Stage

# Of a stage's trials, on a line of the tree; lines of the tree, and how deep it is shown.
MOST_NAMES = 6
MOST_LINES = 200
MOST_DEPTH = 12
# Remarks that differ by trial, the most frequent first.
MOST_NOTES = 6
# AdamW keeps two numbers for each weight; all are written as fp32.
BYTES_A_PARAMETER = 12


def plan(
    outline: Outline, parameters: int | None = None, manifest: Manifest | None = None
) -> RenderableType:
    """The plan of a sweep for the terminal.

    Args:
        outline: the sweep's outline.
        parameters: number of the model's parameters, for the disk space of checkpoints.
        manifest: the corpus's manifest, to warn of trials that don't suit it.
    """
    notes = _note_rows(outline, manifest) if manifest is not None else ()
    if outline.learns:
        return _facts([*_open_rows(outline), *notes])
    return Group(_facts([*_rows(outline, parameters), *notes]), _tree(outline))


def _note_rows(outline: Outline, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """What is odd about trials without being wrong, each once, and of how many trials it is."""
    count: Counter[str] = Counter()
    for trial in outline.trials:
        count.update(remarks(PlannedRun(trial.config, manifest, trial.training.schedule)))
    if not outline.trials:
        base = outline.base
        count.update(remarks(PlannedRun(base.config, manifest, base.schedule)))
    for text, trials in count.most_common(MOST_NOTES):
        some = 0 < trials < len(outline.trials)
        yield "Note", f"{text} ({trials} of {len(outline.trials)} trials)" if some else text


def _facts(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(name, value)
    return table


def _open_rows(outline: Outline) -> Iterator[tuple[str, str]]:
    most = outline.count * outline.base.schedule.positions * outline.base.config.train.seq_len
    yield from _head(outline)
    yield (
        "Tokens",
        f"at most {number_format.count(most)}: each suggestion goes on from what it shares",
    )
    yield from _cost(outline, most)


def _head(outline: Outline) -> Iterator[tuple[str, str]]:
    config = outline.config
    yield "Sweep", str(outline.folder)
    yield "Space", f"{outline.space.path}, by {config.search.type}"
    yield "Trials", f"{outline.count}, compared by {outline.space.metric} ({outline.space.mode})"
    if outline.rungs:
        rungs = ", ".join(number_format.count(rung) for rung in outline.rungs)
        if outline.population:
            share = f"{config.scheduler.quantile:.0%}"
            yield "Marks", f"{rungs} tokens; the worst {share} go on from the best {share}"
        else:
            yield "Rungs", f"{rungs} tokens; 1 in {config.scheduler.factor:g} goes on"
    scaling = outline.base.config.scaling
    workers = (
        f"{scaling.min}" if scaling.min == scaling.upper else f"{scaling.min} to {scaling.upper}"
    )
    yield "Workers", f"{workers} a trial, {config.concurrent} trials at once"


def _rows(outline: Outline, parameters: int | None) -> Iterator[tuple[str, str]]:
    apart = sum(trial.end_tokens for trial in outline.trials)
    shared = sum(branch.tokens for branch in outline.branches.values())
    stages = sum(1 for root in outline.forest for _ in root.walk())
    yield from _head(outline)
    yield "Stages", f"{stages}"
    saved = f", instead of {number_format.count(apart)} apart: {apart / shared:.2f} times less"
    yield (
        "Tokens",
        f"{number_format.count(shared)}{saved if shared < apart else ': nothing is shared'}",
    )
    if outline.rungs:
        yield "", "at most: trials that pause train less"
    yield from _cost(outline, shared)
    yield from _room(outline, parameters)


def _cost(outline: Outline, tokens: int) -> Iterator[tuple[str, str]]:
    """Device-hours and money, if the config says how fast a worker is."""
    run = outline.base.config
    if run.scaling.throughput is None:
        yield "Device-hours", "unknown: say scaling.throughput (tokens/s of a worker) in the base"
        return
    devices = run.scaling.devices_per_worker
    hours = tokens / run.scaling.throughput / 3600 * devices
    yield (
        "Device-hours",
        f"{hours:.3g} at {number_format.count(run.scaling.throughput)} tokens/s a worker, "
        "without starts and evaluations",
    )
    if run.cost.per_device_hour is not None:
        yield "Money", f"{hours * run.cost.per_device_hour:,.2f}"


def _room(outline: Outline, parameters: int | None) -> Iterator[tuple[str, str]]:
    """The most that checkpoints take at once: of each trial its newest, and those of forks."""
    keep = outline.base.config.checkpoint.keep + 1  # the best, and the one being written
    forks = len({(b.parent, b.fork) for b in outline.branches.values() if b.parent})
    count = len(outline.trials) * keep + forks
    size = f", {number_format.memory(count * parameters * BYTES_A_PARAMETER)}" if parameters else ""
    yield "Disk", f"at most {count} checkpoints{size}; a fork takes no room of its own"


def _tree(outline: Outline) -> RenderableType:
    root = RichTree("stages, by tokens at their end")
    left = [(root, 1, stage) for stage in reversed(outline.forest)]
    lines = 0
    while left and lines < MOST_LINES:
        above, depth, stage = left.pop()
        lines += 1
        end = outline[stage.name].training.tokens_after(stage.last)
        line = f"{number_format.count(end)}  {_named(stage, outline)}"
        branch = above.add(line, highlight=False)
        if depth < MOST_DEPTH:
            left += [(branch, depth + 1, child) for child in reversed(stage.children)]
        elif stage.children:
            branch.add(_more(stage.children), highlight=False)
    return Group(root, _more([stage for _, _, stage in left])) if left else root


def _more(stages: Sequence[Stage]) -> str:
    return f"… {sum(1 for stage in stages for _ in stage.walk()):,} more stages"


def _named(stage: Stage, outline: Outline) -> str:
    if stage.count == 1:
        return f"{stage.name}  {outline[stage.name].label}"
    shown = ", ".join(stage.trials[:MOST_NAMES])
    return f"{stage.count} trials: {shown}{', …' if stage.count > MOST_NAMES else ''}"

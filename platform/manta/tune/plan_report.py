"""The plan of a sweep, printed before anything runs: what it will train, and at what cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.tree import Tree as RichTree

from manta.corpus.manifest import Manifest
from manta.record import number_format
from manta.show.console.remarks import PlannedRun, remarks
from manta.show.console.run_plan import cost_rows
from manta.tune.sweep_plan import Outline
from manta.tune.tree import Stage

# Trials that a line of the stage tree names; lines of the tree; levels of the tree.
MOST_NAMES = 6
MOST_LINES = 200
MOST_DEPTH = 12
# Remarks on trials that are shown, the most frequent first.
MOST_NOTES = 6


def plan(
    outline: Outline, manifest: Manifest | None = None, sizes: Mapping[str, int] | None = None
) -> RenderableType:
    """The plan of a sweep for the terminal.

    Args:
        outline: the sweep's outline.
        manifest: the corpus's manifest, for remarks on trials that don't suit the corpus.
        sizes: bytes of a checkpoint of each trial, by the trial's name.
    """
    notes = _note_rows(outline, manifest) if manifest is not None else ()
    if outline.learns:
        return _facts([*_open_rows(outline), *notes])
    return Group(_facts([*_rows(outline, sizes or {}), *notes]), _tree(outline))


def _note_rows(outline: Outline, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Remarks on trials, each once with the number of trials that it holds for."""
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
    yield from _header(outline)
    yield (
        "Tokens",
        f"at most {number_format.count(most)}: steps that suggestions share are trained once",
    )
    yield from cost_rows(outline.base.config, most)


def _header(outline: Outline) -> Iterator[tuple[str, str]]:
    config = outline.config
    yield "Sweep", str(outline.folder)
    yield "Space", f"{outline.space.path}, by {config.search.type}"
    yield "Trials", f"{outline.count}, compared by {outline.space.metric} ({outline.space.mode})"
    if outline.rungs:
        rungs = ", ".join(number_format.count(rung) for rung in outline.rungs)
        if outline.population:
            share = f"{config.scheduler.quantile:.0%}"
            yield "Marks", f"{rungs} tokens; the worst {share} continue from the best {share}"
        else:
            yield "Rungs", f"{rungs} tokens; 1 in {config.scheduler.factor:g} continues"
    scaling = outline.base.config.scaling
    workers = (
        f"{scaling.min}" if scaling.min == scaling.upper else f"{scaling.min} to {scaling.upper}"
    )
    yield "Workers", f"{workers} a trial, {config.concurrent} trials at once"


def _rows(outline: Outline, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    apart = sum(trial.end_tokens for trial in outline.trials)
    shared = sum(branch.tokens for branch in outline.branches.values())
    stages = sum(1 for root in outline.forest for _ in root.walk())
    yield from _header(outline)
    yield "Stages", f"{stages}"
    saved = f" instead of {number_format.count(apart)} without sharing: {apart / shared:.2f}x less"
    yield (
        "Tokens",
        f"{number_format.count(shared)}{saved if shared < apart else ': nothing is shared'}",
    )
    if outline.rungs:
        yield "", "at most, as trials that pause train less"
    yield from cost_rows(outline.base.config, shared)
    yield from _room(outline, sizes)


def _room(outline: Outline, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Most disk space that checkpoints take at once: each trial's newest, and those for forks."""
    keep = outline.base.config.checkpoint.keep + 1  # one more for the best or the one being written
    forks = {(b.parent, b.fork) for b in outline.branches.values() if b.parent}
    kept = [trial.name for trial in outline.trials for _ in range(keep)]
    kept += [parent for parent, _ in forks]
    total = sum(sizes.get(name, 0) for name in kept)
    size = f", {number_format.memory(total)}" if total else ""
    yield "Disk", f"at most {len(kept)} checkpoints{size}; a fork itself takes no space"


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

"""A sweep as one W&B run shows it: the table of its trials, its tree, its summary."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from manta.config import ConfigError, RunConfig, load
from manta.config.errors import RunError
from manta.record import number_format as words
from manta.record.history import Tail
from manta.record.param_names import SEED, column_names, flat
from manta.record.results import run_results
from manta.record.run_state import read_state
from manta.record.sweep_state import SweepState, SweepTrial
from manta.storage.run_folder import CONFIG, METRICS

# Width of the tree in characters: room for a label beside the values.
TREE_COLUMNS = 160
FIRST = ("name", "label")
LAST = (
    *("seed", "status", "metric", "best_metric", "tokens", "own_tokens", "compute_hours"),
    *(
        "own_compute_hours",
        "device_hours",
        "cost",
        "parent",
        "fork_tokens",
        "path",
        "run",
        "reason",
    ),
)


@dataclass(frozen=True)
class TrialTable:
    """Columns and rows; a column has numbers, booleans or text, and None for missing values."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def trial_table(folder: Path, state: SweepState) -> TrialTable:
    """A table with a row for each trial, also for those that have not begun.

    Args:
        folder: folder of the sweep.
        state: the sweep's record.
    """
    names = column_names(key for one in state.trials for key in one.params if key != SEED)
    found = [_facts(folder, one, state, names) for one in state.trials]
    columns = (*FIRST, *names.values(), *LAST)
    filled = [_of_one_kind([facts.get(name) for facts in found]) for name in columns]
    return TrialTable(columns, tuple(zip(*filled, strict=True)))


def _facts(
    folder: Path, trial: SweepTrial, state: SweepState, names: Mapping[str, str]
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": trial.name,
        "label": trial.label,
        **flat(trial.params, names),
        "seed": trial.seed,
        "status": trial.status,
        "metric": trial.value,
        "tokens": trial.tokens,
        "own_tokens": max(0, trial.tokens - trial.fork_tokens),
        "parent": trial.parent,
        "fork_tokens": trial.fork_tokens,
        "reason": trial.reason,
    }
    return facts | _recorded(folder / trial.name, state)


def _recorded(run_dir: Path, state: SweepState) -> dict[str, Any]:
    """The facts from a trial's own record; empty before it began or if it can't be read."""
    try:
        run, config = read_state(run_dir), load(run_dir / CONFIG, RunConfig)
        rows = Tail(run_dir / METRICS).rows()
        stands = run_results(run, config, rows, state.metric, state.mode).as_dict()
    except (RunError, ConfigError, OSError):
        return {}
    return {**stands, "path": " → ".join(stands["path"]), "run": run.wandb.url or run.wandb.id}


def _of_one_kind(values: Sequence[Any]) -> list[Any]:
    """A column that W&B can sort and draw: text unless all values are numbers or booleans."""
    known = [value for value in values if value is not None]
    truths = [isinstance(value, bool) for value in known]
    if all(truths) or (not any(truths) and all(isinstance(value, int | float) for value in known)):
        return list(values)
    return [None if value is None else str(value) for value in values]


def tree_page(state: SweepState) -> str:
    """The stage tree as a page: each trial is below the one that it was forked from."""
    root = Tree(f"{state.name}: trials, each below the one it was forked from")
    _grow(root, None, state)
    console = Console(record=True, file=io.StringIO(), width=TREE_COLUMNS)
    console.print(root)
    return console.export_html(inline_styles=True)


def _grow(above: Tree, parent: str | None, state: SweepState) -> None:
    children = [trial for trial in state.trials if trial.parent == parent]
    for trial in sorted(children, key=lambda t: (t.fork_tokens, t.name)):
        _grow(above.add(Text(_line(trial, state))), trial.name, state)


def _line(trial: SweepTrial, state: SweepState) -> str:
    """``t001  2.24K → 4.48K  finished  val_loss 2.3456  decay=25%``."""
    start = words.count(trial.fork_tokens)
    parts = [trial.name, f"{start} → {words.count(max(trial.tokens, trial.fork_tokens))}"]
    parts.append(trial.status)
    if trial.value is not None:
        parts.append(f"{state.metric} {trial.value:.4f}")
    return "  ".join([*parts, trial.label])


def figures_of(state: SweepState, table: TrialTable) -> dict[str, Any]:
    """The summary: the sweep's progress, and its best trial."""
    found: dict[str, Any] = {
        "status": state.status,
        "trials_finished": sum(trial.status == "finished" for trial in state.trials),
        "trials_total": len(state.trials),
        "tokens_trained": state.tokens.trained,
        "tokens_apart": state.tokens.apart,
    }
    trials = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    ended = [one for one in trials if one["status"] == "finished" and one["metric"] is not None]
    if ended:
        best = (min if state.mode == "min" else max)(ended, key=lambda one: one["metric"])
        found |= {f"best_{key}": best[key] for key in ("name", "label", "metric")}
    return found

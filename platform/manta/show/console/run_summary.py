"""A run in a few lines: its header before it begins, its summary after it ended."""

from __future__ import annotations

import os

from manta.config.objective import NATS
from manta.config.urls import is_url, join
from manta.record import number_format
from manta.record.goodput import goodput
from manta.record.run_state import RunState, sync_command
from manta.storage.run_folder import REPORT

MOST_SIZES = 6


def header_lines(state: RunState) -> list[str]:
    """The first lines about a run: version, name, size, corpus."""
    again = f", continued at step {state.totals.steps:,}" if state.drivers > 1 else ""
    return [
        f"Manta {state.manta_version}: run {state.name}{again}",
        f"  {state.total_steps:,} steps, {number_format.count(state.total_tokens)} tokens; "
        f"corpus {state.corpus} ({state.corpus_fingerprint[:12]})",
    ]


def status_text(state: RunState) -> str:
    """The run's status, with its reason if there is one."""
    return f"{state.status}: {state.reason}" if state.reason else state.status


def loss_rows(state: RunState) -> list[tuple[str, str]]:
    """Rows for the measured losses; those of tokens as perplexity and in bits a byte, too."""
    results = state.results
    rows = []
    if results.loss is not None:
        rows.append(("Loss", number_format.loss(results.loss)))
    if results.val_loss is not None:
        best = f"best {number_format.loss(results.best_val_loss)} at step {results.best_val_step:,}"
        rows.append(("Validation loss", f"{number_format.loss(results.val_loss)} ({best})"))
        rows += [
            (f"Validation {name.replace('_', ' ')}", number_format.loss(mean))
            for name, mean in results.val_terms.items()
            if mean != results.val_loss  # the loss itself
        ]
        if state.loss_is == NATS:
            rows.append(("Perplexity", number_format.perplexity(results.val_loss)))
        if (bits := state.bits_per_byte(results.val_loss)) is not None:
            rows.append(("Bits per byte", number_format.loss(bits)))
    return rows


def total_rows(state: RunState) -> list[tuple[str, str]]:
    """Rows for what was trained, and the time and cost."""
    totals = state.totals
    again = f" (+ {number_format.count(totals.tokens_again)} again)" if totals.tokens_again else ""
    rows = [
        ("Steps", f"{totals.steps:,} of {state.total_steps:,}"),
        ("Tokens", f"{number_format.count(totals.tokens)}{again}"),
        ("Samples", number_format.count(totals.samples)),
        ("Wall time", number_format.duration(totals.wall_seconds)),
        ("Device time", number_format.duration(totals.device_seconds)),
    ]
    if totals.wall_seconds > 0:
        speed = number_format.count(totals.tokens / totals.wall_seconds)
        rows.append(("Throughput", f"{speed} tokens/s overall"))
    if (share := goodput(state)) is not None:
        rows.append(("Goodput", f"{share:.1%} of the device time trained new steps"))
    if totals.cost is not None:
        rows.append(("Cost", number_format.money(totals.cost)))
    if state.results.skipped_steps:
        rows.append(("Skipped", f"{len(state.results.skipped_steps):,} steps"))
    rows.append(("Workers", f"{sizes_text(state)} ({restarts_text(state)})"))
    return rows


def sizes_text(state: RunState) -> str:
    """World sizes over time: ``4 → 3 → 4``; if there are many, the first and the last."""
    sizes = [str(size) for size in state.world_sizes]
    if len(sizes) > MOST_SIZES:
        sizes = [sizes[0], "…", *sizes[-MOST_SIZES + 2 :]]
    return " → ".join(sizes) or "none"


def restarts_text(state: RunState) -> str:
    """The number of restarts, in words."""
    return f"{state.restarts or 'no'} restart{'' if state.restarts == 1 else 's'}"


def short_path(path: str) -> str:
    """`path` relative to the current folder, if that is not longer; a URL unchanged."""
    if is_url(path):
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def wandb_text(state: RunState) -> str:
    """The W&B run's address, or the command that uploads it."""
    wandb = state.wandb
    if wandb.sync_command and wandb.folder:
        return f"offline; upload with: {sync_command(short_path(wandb.folder))}"
    if wandb.problem:
        return f"failed: {wandb.problem}"
    return wandb.url if wandb.mode == "online" and wandb.url else wandb.mode


def summary_rows(state: RunState, run_dir: str) -> list[tuple[str, str]]:
    """All rows of the summary."""
    rows = [("Run", f"{state.name}, {status_text(state)}"), *loss_rows(state), *total_rows(state)]
    if state.checkpoint:
        rows.append(("Checkpoint", short_path(state.checkpoint.path)))
    if state.ledger_digest:
        rows.append(("Ledger", state.ledger_digest))
    if state.wandb.mode != "disabled":
        rows.append(("W&B", wandb_text(state)))
    rows.append(("Report", short_path(join(run_dir, REPORT))))
    return rows

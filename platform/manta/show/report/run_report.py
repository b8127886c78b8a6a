"""The HTML report of a run: one self-contained file, made from the run's files.

It can be made again at any time for any run, also while it trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from manta.config import ConfigError, RunConfig, load
from manta.config.units import format_tokens
from manta.corpus.length_cost import cost_lines
from manta.record import number_format as words
from manta.record.checked_rows import read_checked
from manta.record.curve import SMOOTHED
from manta.record.evaluation_record import EvaluationRecord, evaluations_of
from manta.record.goodput import ACTIVITIES, device_seconds
from manta.record.metric_text import first_values, value_text
from manta.record.run_state import RunState, read_state, utc_now
from manta.schedule import Schedule
from manta.show.console.run_summary import restarts_text, sizes_text
from manta.show.pages import page as html
from manta.show.report.evaluated_series import EvaluatedSeries
from manta.show.report.report_charts import draw_against, figures
from manta.show.report.series import read_series
from manta.storage.atomic import replace_text
from manta.storage.place import Place
from manta.storage.run_folder import CONFIG, REPORT

MOST_EVENTS = 100
MOST_STEPS = 20


def write_report(run_dir: Path, against: Path | None = None) -> Path:
    """Write ``report.html`` into `run_dir` atomically; returns its path.

    Args:
        run_dir: the run's folder.
        against: folder of another run, whose loss is drawn over this one's.

    Raises:
        RunError: if there is no run in `run_dir`, or in `against`.
    """
    state, config = read_state(run_dir), _config(run_dir)
    beside = EvaluatedSeries()
    (training, validation), problem = read_checked(
        run_dir, lambda rows: read_series(rows.rows(), beside.add)
    )
    schedule = None if config is None else Schedule.resolve(config.schedule, config.train.seq_len)
    drawn = figures(state, training, validation, schedule)
    drawn += beside.figures(state.totals.tokens)
    evaluations = evaluations_of(run_dir)
    drawn[0]["whole"] = True
    if against is not None:
        (other, _), found = read_checked(against, lambda rows: read_series(rows.rows()))
        problem = " ".join(filter(None, (problem, found and f"{against.name}: {found}")))
        draw_against(drawn[0], read_state(against).name, other)
    parts = [
        html.header(state.name, state.status, [*_header_lines(state), *filter(None, [problem])]),
        html.tiles(
            [*_tiles(state, training.last_mean("loss", SMOOTHED)), *_evaluated_tiles(evaluations)]
        ),
        html.charts(drawn),
        _time_spent(state),
        _groups(state),
        _starts(state),
        _evaluations(evaluations),
        html.facts("Origin", _origin(state, config)),
        _events(state),
        _config_text(run_dir),
        html.footer(f"Manta {state.manta_version}, report of {utc_now()}"),
    ]
    replace_text(run_dir / REPORT, html.page(f"{state.name} – Manta", "\n".join(parts), drawn))
    return run_dir / REPORT


def _header_lines(state: RunState) -> list[str]:
    span = f"{_moment(state.created)} to {_moment(state.ended or state.updated)} UTC"
    lines = [f"{span} · corpus {state.corpus_fingerprint[:16]}"]
    return [f"{state.reason}", *lines] if state.reason else lines


def _of_loss(state: RunState) -> str:
    mean = f"mean of the last {SMOOTHED:.0%}"
    return f"{mean}, {state.loss_is}" if state.loss_is else mean


def _tiles(state: RunState, loss: float | None) -> list[tuple[str, str, str]]:
    totals, results = state.totals, state.results
    again = f"{words.count(totals.tokens_again)} trained again" if totals.tokens_again else ""
    tiles = [
        ("Tokens", words.count(totals.tokens), again or f"of {words.count(state.total_tokens)}"),
        ("Steps", f"{totals.steps:,}", f"of {state.total_steps:,}"),
        ("Loss", words.loss(loss), _of_loss(state)),
    ]
    if results.best_val_loss is not None:
        best = f"best, at step {results.best_val_step:,}"
        if (bits := state.bits_per_byte(results.best_val_loss)) is not None:
            best += f" · {words.loss(bits)} bits per byte"
        tiles.append(("Validation loss", words.loss(results.best_val_loss), best))
    speed = totals.tokens / totals.wall_seconds if totals.wall_seconds else 0.0
    tiles += [
        ("Wall time", words.duration(totals.wall_seconds), f"{words.count(speed)} tokens/s"),
        ("Device time", words.duration(totals.device_seconds), "all devices together"),
        ("Workers", sizes_text(state), restarts_text(state)),
    ]
    if totals.cost is not None:
        tiles.append(("Cost", words.money(totals.cost), _cost_of(state)))
    return tiles


def _cost_of(state: RunState) -> str:
    totals = state.totals
    if not totals.tokens or totals.cost is None:
        return ""
    return f"{totals.cost / totals.tokens * 1e9:,.2f} per billion tokens"


def _time_spent(state: RunState) -> str:
    """A table of what the run's devices did, and for how long."""
    found = device_seconds(state)
    total = sum(found.values())
    rows = [
        [ACTIVITIES[activity], words.duration(seconds), f"{seconds / total:.1%}"]
        for activity, seconds in found.items()
        if seconds > 0
    ]
    names = ["Activity", "Device time", "Share"]
    return html.table("Where the time of the devices went", names, rows) if rows else ""


def _groups(state: RunState) -> str:
    names = ["Attempt", "Workers", "Started (UTC)", "From step", "To step", "Time", "Ended"]
    rows = [
        [
            str(group.attempt),
            str(group.world_size),
            _moment(group.started),
            f"{group.step:,}",
            f"{group.last_step:,}",
            words.duration(group.seconds),
            group.reason or "running",
        ]
        for group in state.groups
    ]
    return html.table("Worker groups", names, rows) if rows else ""


def _starts(state: RunState) -> str:
    """A table of the state that each group started from, and the time of its start by part."""
    timed = [group for group in state.groups if group.start]
    parts = list(dict.fromkeys(part for group in timed for part in group.start))
    names = ["Attempt", "Started from", "Seconds", *(part.replace("_", " ") for part in parts)]
    rows = [
        [
            str(group.attempt),
            group.source,
            f"{sum(group.start.values()):.2f}",
            *(f"{group.start[part]:.2f}" if part in group.start else "" for part in parts),
        ]
        for group in timed
    ]
    return html.table("Starts and restarts, in seconds", names, rows) if rows else ""


# Metrics of evaluations that have a tile each: is the task done, is it made up, how long, how dear.
TILES = (
    ("success", "Task success"),
    ("hallucination_rate", "Hallucination rate"),
    ("latency_p95", "Latency (95 %)"),
    ("cost_per_1000", "Cost of 1,000 answers"),
)


def _evaluated_tiles(evaluations: Mapping[Place, EvaluationRecord]) -> list[tuple[str, str, str]]:
    """Tiles with the newest values of what decides whether a model ships, where measured."""
    newest = sorted(evaluations.values(), key=lambda one: (one.model.step or 0, one.created))
    found = []
    for metric, title in TILES:
        for record in reversed(newest):
            values = {
                name: result.values[metric]
                for name, result in record.evaluators.items()
                if metric in result.values
            }
            if values:
                at = "" if record.model.step is None else f", at step {record.model.step:,}"
                found += [
                    (title, value_text(metric, value), f"{name}{at}")
                    for name, value in values.items()
                ]
                break
    return found


def _evaluations(evaluations: Mapping[Place, EvaluationRecord]) -> str:
    """A table of what evaluations of the run have found."""
    rows = [
        [
            folder.name,
            _moment(record.created),
            "–" if record.model.step is None else f"{record.model.step:,}",
            " · ".join(
                f"{name}/{metric} {value_text(metric, value)}"
                for name, metric, value in first_values(record)
            ),
        ]
        for folder, record in evaluations.items()
    ]
    names = ["Evaluation", "Made (UTC)", "Step", "Found"]
    return html.table("Evaluations", names, rows) if rows else ""


def _origin(state: RunState, config: RunConfig | None) -> list[tuple[str, str]]:
    rows = [
        ("Corpus", state.corpus),
        ("Corpus fingerprint", state.corpus_fingerprint),
        *(("Too long", line) for line in cost_lines(state.length_cost, "records")),
        ("Length", _length(state, config)),
        ("Samples", f"{state.totals.samples:,}"),
    ]
    if skipped := state.results.skipped_steps:
        rows.append(("Skipped steps", _first_of(skipped)))
    if state.ledger_digest:
        rows.append(("Ledger digest", state.ledger_digest))
    if state.checkpoint:
        rows.append(
            ("Last checkpoint", f"{state.checkpoint.path} (step {state.checkpoint.step:,})")
        )
    if state.git:
        changed = " with uncommitted changes" if state.git["dirty"] else ""
        rows.append(("Code", f"{state.git['commit']}{changed}"))
    packages = ", ".join(f"{name} {version}" for name, version in state.packages.items())
    rows.append(("Packages", packages))
    rows.append(("Driver", _hardware(state)))
    workers = state.hardware.get("workers") or {}
    if workers:
        rows.append(("Workers", ", ".join(f"{key}: {value}" for key, value in workers.items())))
    if state.wandb.mode != "disabled":
        rows.append(("W&B run", state.wandb.url or f"{state.wandb.id} ({state.wandb.mode})"))
    return rows


def _length(state: RunState, config: RunConfig | None) -> str:
    """The horizon, and the token count at which the last whole batch ends."""
    ends = f"{state.total_steps:,} steps, which end at {state.total_tokens:,} tokens"
    if config is None:
        return ends
    horizon = config.schedule.horizon
    past = ", since batches are whole" if state.total_tokens != horizon else ""
    return f"horizon {format_tokens(horizon)} tokens; {ends}{past}"


def _first_of(steps: list[int]) -> str:
    """The number of `steps`, and the first few of them."""
    shown = ", ".join(f"{step:,}" for step in steps[:MOST_STEPS])
    return f"{len(steps):,}: {shown}{', …' if len(steps) > MOST_STEPS else ''}"


def _hardware(state: RunState) -> str:
    found = state.hardware
    memory = found.get("memory_bytes")
    parts = [
        found.get("host"),
        f"{found['cpu_count']} × {found['cpu_model']}" if found.get("cpu_count") else None,
        words.memory(memory) if memory else None,
        found.get("platform"),
    ]
    return ", ".join(str(part) for part in parts if part)


def _events(state: RunState) -> str:
    rows = [
        [_moment(event.time), f"{event.step:,}", event.message]
        for event in state.events[-MOST_EVENTS:]
    ]
    return html.table("Events", ["Time (UTC)", "Step", "What happened"], rows) if rows else ""


def _config(run_dir: Path) -> RunConfig | None:
    """The run's config; None if it can't be read: the report still shows the rest."""
    try:
        return load(run_dir / CONFIG, RunConfig)
    except (ConfigError, OSError):
        return None


def _config_text(run_dir: Path) -> str:
    path = run_dir / CONFIG
    return html.folded("Config", path.read_text(encoding="utf-8")) if path.exists() else ""


def _moment(stamp: str) -> str:
    """An ISO time to the minute, without its zone, since all times are UTC."""
    return stamp[:16].replace("T", " ")

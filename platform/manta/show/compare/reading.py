"""Reads what is compared from files: the trials of a sweep, or runs given one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manta.config import ConfigError, RunConfig, load
from manta.config.errors import RunError
from manta.config.metrics import VAL_LOSS, better, is_loss, of_evaluator
from manta.record.checked_rows import read_checked
from manta.record.curve import read_curve
from manta.record.goodput import goodput
from manta.record.param_names import SEED
from manta.record.run_state import RunState, read_state
from manta.record.sweep_state import SweepTrial, read_sweep
from manta.schedule import Schedule
from manta.show.compare.comparison import LOST, ComparedRun, Comparison
from manta.show.compare.config_differences import IGNORED, as_yaml, differences, ignored, without
from manta.storage.exclusive import lives
from manta.storage.run_folder import CONFIG, METRICS, RUN, SWEEP


def load_comparison(
    paths: Sequence[Path], metric: str | None = None, alive: Callable[[Path], bool] = lives
) -> Comparison:
    """Read the sweep, or the runs, at `paths`.

    Args:
        paths: folders of two or more runs, or the folder of one sweep.
        metric: the key in rows to compare by; if None, the sweep's, or the validation loss.
        alive: tells whether a driver is at work on a folder.

    Raises:
        RunError: if a path has no run or sweep, a file can't be understood, or no row has the
            metric.
    """
    sweeps = [path for path in paths if (path / SWEEP).is_file()]
    for path in paths:
        if path not in sweeps and not (path / RUN).is_file():
            raise RunError(
                f"{path}: neither a run (no {RUN}) nor a sweep (no {SWEEP}); give the "
                "folders of runs, or the folder of one sweep"
            )
    if sweeps and len(paths) > 1:
        raise RunError(
            f"{sweeps[0]}: a sweep is compared by itself; to compare trials across sweeps, give "
            "their own folders"
        )
    comparison = _of_sweep(paths[0], metric, alive) if sweeps else _of_runs(paths, metric, alive)
    _check_metric(comparison, paths)
    return comparison


# Reading a sweep.


def _of_sweep(folder: Path, metric: str | None, alive: Callable[[Path], bool]) -> Comparison:
    sweep = read_sweep(folder)
    metric, mode = (metric or sweep.metric), sweep.mode
    if metric != sweep.metric:
        mode = better(metric) or "min"
    warnings: list[str] = []
    trials = [_of_trial(folder / trial.name, trial, metric, warnings) for trial in sweep.trials]
    trials = [_with_beginning(trial, trials) for trial in trials]
    status = sweep.status if sweep.status != "running" or alive(folder) else LOST
    if status == LOST:
        trials = [_unless_lost(trial, folder / trial.name, alive) for trial in trials]
    trials, keys = _different_params(trials)
    return Comparison(
        title=sweep.name,
        question=sweep.question.strip(),
        status=status,
        metric=metric,
        mode=mode,
        keys=keys,
        trials=tuple(trials),
        shared=as_yaml(without(sweep.base, keys)),
        tokens=sweep.tokens,
        warnings=(*warnings, *_warnings(trials)),
    )


def _of_trial(folder: Path, trial: SweepTrial, metric: str, warnings: list[str]) -> ComparedRun:
    """A trial of a sweep. If it can't be read, warn and go on: the others still count."""
    config = state = None
    if (folder / RUN).is_file():
        try:
            config = load(folder / CONFIG, RunConfig)
            state = read_state(folder)
        except (ConfigError, RunError) as error:
            warnings.append(f"trial {trial.name} is left out: {error}")
    elif trial.status not in ("waiting", "running") and not _shares_fate(trial):
        warnings.append(f"trial {trial.name} is left out: {folder} has no {RUN}")
    return ComparedRun(
        name=trial.name,
        label=trial.label or trial.name,
        params={key: value for key, value in trial.params.items() if key != SEED},
        seed=trial.seed,
        status=trial.status,
        reason=trial.reason,
        parent=trial.parent,
        fork_tokens=trial.fork_tokens,
        end_tokens=trial.end_tokens,
        **_recorded(folder, config, state, metric),
    )


def _shares_fate(trial: SweepTrial) -> bool:
    """Whether a trial without its own run ended with the trial that trains its beginning."""
    began = trial.parent is None or trial.tokens > trial.fork_tokens
    return not began and trial.status != "finished"


def _with_beginning(trial: ComparedRun, trials: Sequence[ComparedRun]) -> ComparedRun:
    """The trial; if it ended without its own history, with that of the trial it shares."""
    ends, above = trial.fork_tokens, trial
    while above.curve is None and above.parent is not None and trial.status != "waiting":
        ends = min(ends, above.fork_tokens)
        above = next(one for one in trials if one.name == above.parent)
    if above is trial or above.curve is None:
        return trial
    curve = above.curve.until(ends)
    return replace(trial, curve=curve if curve.reached else None)


def _unless_lost(trial: ComparedRun, folder: Path, alive: Callable[[Path], bool]) -> ComparedRun:
    lost = trial.status == "running" and not alive(folder)
    return replace(trial, status=LOST) if lost else trial


def _different_params(trials: Sequence[ComparedRun]) -> tuple[list[ComparedRun], tuple[str, ...]]:
    """The trials with only the parameters in which some differ, and the keys of these."""
    keys = [
        key
        for key in dict.fromkeys(key for trial in trials for key in trial.params)
        if len({json.dumps(trial.params.get(key), sort_keys=True) for trial in trials}) > 1
    ]
    reduced = [
        replace(trial, params={key: trial.params.get(key) for key in keys}) for trial in trials
    ]
    return reduced, tuple(keys)


# Reading runs.


def _of_runs(
    paths: Sequence[Path], metric: str | None, alive: Callable[[Path], bool]
) -> Comparison:
    given: dict[Path, Path] = {}
    for path in paths:
        given.setdefault(path.resolve(), path)
    folders = list(given)
    if len(folders) < 2:
        raise RunError(f"{paths[0]}: one run can't be compared; give two or more runs, or a sweep")
    metric = metric or VAL_LOSS
    configs = [load(folder / CONFIG, RunConfig) for folder in folders]
    states = [read_state(folder) for folder in folders]
    same_corpus = len({state.corpus_fingerprint for state in states}) == 1
    differing = {
        key: values
        for key, values in differences([config.model_dump(mode="json") for config in configs])
        if not ignored(key) and not (key == "corpus" and same_corpus)
    }
    names = [state.name for state in states]
    trials = [
        ComparedRun(
            name=str(path) if names.count(state.name) > 1 else state.name,
            label=str(path) if names.count(state.name) > 1 else state.name,
            params={key: values[index] for key, values in differing.items()},
            seed=config.run.seed,
            status=state.status,
            reason=state.reason,
            parent=None,
            fork_tokens=0,
            end_tokens=state.total_tokens,
            **_recorded(folder, config, state, metric),
        )
        for index, (path, folder, config, state) in enumerate(
            zip(given.values(), folders, configs, states, strict=True)
        )
    ]
    trials = [
        _unless_lost(trial, path, alive) for trial, path in zip(trials, given.values(), strict=True)
    ]
    return Comparison(
        title=f"{len(trials)} runs",
        question="",
        status="",
        metric=metric,
        mode=better(metric) or "min",
        keys=tuple(differing),
        trials=tuple(trials),
        shared=as_yaml(without(configs[0].model_dump(mode="json"), [*differing, *IGNORED])),
        tokens=None,
        warnings=_warnings(trials),
    )


# For both.


def _recorded(
    folder: Path, config: RunConfig | None, state: RunState | None, metric: str
) -> dict[str, Any]:
    """The fields of a trial that come from its run's folder."""
    if config is None or state is None:
        names = ("curve", "schedule", "device_seconds", "cost", "fingerprint", "eval_sample")
        return dict.fromkeys(names)
    devices = config.scaling.devices_per_worker
    curve, problem = read_checked(folder, lambda rows: read_curve(rows.rows(), metric, devices))
    return {
        "curve": curve if curve.reached else None,
        "schedule": Schedule.resolve(config.schedule, config.train.seq_len),
        "device_seconds": state.totals.device_seconds,
        "cost": state.totals.cost,
        "goodput": goodput(state),
        "fingerprint": state.corpus_fingerprint,
        "eval_sample": None if state.results.val_loss is None else state.eval_sample,
        "measured": config.objective.measured if is_loss(metric) else "",
        "row_problem": problem,
    }


def _warnings(trials: Sequence[ComparedRun]) -> tuple[str, ...]:
    rows = (f"{trial.name}: {trial.row_problem}" for trial in trials if trial.row_problem)
    return (
        *rows,
        *_objective_warnings(trials),
        *_corpus_warnings(trials),
        *_repeat_warnings(trials),
    )


def _objective_warnings(trials: Sequence[ComparedRun]) -> tuple[str, ...]:
    """A warning if the compared loss means another thing in some trials."""
    found: dict[str, list[str]] = {}
    for trial in trials:
        if trial.measured:
            found.setdefault(trial.measured, []).append(trial.name)
    if len(found) < 2:
        return ()
    listed = "; ".join(f"{what} ({_few(names)})" for what, names in found.items())
    return (f"not comparable: their losses are of other objectives: {listed}",)


def _few(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *(["…"] if len(names) > 3 else [])])


def _corpus_warnings(trials: Sequence[ComparedRun]) -> tuple[str, ...]:
    return _apart("trained on different corpora", [(t.fingerprint, t.name) for t in trials]) or (
        _apart("evaluated on different samples", [(t.eval_sample, t.name) for t in trials])
    )


def _apart(how: str, digests: Sequence[tuple[str | None, str]]) -> tuple[str, ...]:
    """A warning if trials, given as (digest, name), have different digests."""
    found: dict[str, list[str]] = {}
    for digest, name in digests:
        if digest is not None:
            found.setdefault(digest, []).append(name)
    if len(found) < 2:
        return ()
    parts = [
        f"{digest[:12] or 'by an older version'} ({_few(names)})" for digest, names in found.items()
    ]
    return (f"not comparable: {how}: {'; '.join(parts)}",)


def _repeat_warnings(trials: Sequence[ComparedRun]) -> tuple[str, ...]:
    same: dict[tuple[str, int], list[str]] = {}
    for trial in trials:
        key = json.dumps(trial.params, sort_keys=True), trial.seed
        same.setdefault(key, []).append(trial.name)
    return tuple(
        f"{', '.join(names)} have the same config and seed; repeats of one run say nothing about "
        f"seed noise, so only {names[0]} counts"
        for names in same.values()
        if len(names) > 1
    )


def _check_metric(comparison: Comparison, paths: Sequence[Path]) -> None:
    if any(trial.value is not None for trial in comparison.trials):
        return
    remedy = "compare by --metric loss, or set eval.every in the config"
    if of_evaluator(comparison.metric):
        remedy = "evaluators measure such a metric beside training (eval.evaluators)"
    elif comparison.metric == "loss":
        remedy = "wait until a run has logged a step"
    where = ", ".join(map(str, paths[:3]))
    raise RunError(f"{where}: no row of any {METRICS} has '{comparison.metric}'; {remedy}")

"""Manta from Python, for notebooks and scripts: train, sweep, compare, read what was recorded.

    from manta import api

    run = api.train("run.yaml", {"run.name": "first", "schedule.lr.peak": 3e-4})
    run.metrics().to_pandas()

The functions do what the commands of the same names do, with the same configs and the same
folders: a run begun by one can be continued by the other. Errors are subclasses of `MantaError`.
docs/python.md has examples. Importing this module loads neither Ray nor Torch.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from manta.config import ConfigError, MantaError, RunConfig, SweepConfig, dump
from manta.config.errors import CorpusError, DivergedError, RunError, TrainingError
from manta.config.load import Written, build, change, given, read
from manta.config.sweep import located

if TYPE_CHECKING:
    import pyarrow as pa

    from manta.sample.format import Format
    from manta.show.compare.comparison import ComparedRun, Comparison
    from manta.show.compare.ranking import Ranking
    from manta.show.evaluations.paired_comparison import PairedComparison
    from manta.storage.place import Place

__all__ = [
    "ComparedRuns",
    "ConfigError",
    "CorpusError",
    "DivergedError",
    "MantaError",
    "RecordedEvaluation",
    "RecordedRun",
    "RecordedSweep",
    "RunConfig",
    "RunError",
    "SweepConfig",
    "TrainingError",
    "compare",
    "compare_evaluations",
    "evaluate",
    "open_evaluation",
    "open_run",
    "open_sweep",
    "read_metrics",
    "sweep",
    "train",
    "write_corpus",
]

# Path of a YAML file, or its content as a mapping.
ConfigSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
# Config keys with dots, and their values: {"schedule.lr.peak": 3e-4}.
Overrides: TypeAlias = Mapping[str, Any]
# The folder of a run or sweep, or its URL.
Folder: TypeAlias = str | os.PathLike[str]
SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class RecordedRun:
    """A run as its record describes it; an unfinished run has the figures of its last step.

    Attributes:
        name: the run's name.
        folder: the run's folder or URL.
        status: `finished`, `stopped` (evaluations no longer improved), `interrupted`, `failed`
            or `running`.
        steps: number of steps trained so far.
        tokens: number of tokens trained on so far.
        loss: the last step's training loss, in nats a token.
        val_loss: the last evaluation's loss, in nats a token; None if there was no evaluation.
        best_val_loss: the lowest of all evaluations.
        device_hours: hours of all devices together, starts and evaluations included.
        cost: price of the device hours; None where devices have no price.
        goodput: share of the device time that trained new steps; None for older records.
        device_seconds: seconds of all devices together by activity, which sum to the whole.
    """

    name: str
    folder: str
    status: str
    steps: int
    tokens: int
    loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    device_hours: float
    cost: float | None
    goodput: float | None
    device_seconds: Mapping[str, float]

    def metrics(
        self, kind: Literal["training", "validation", "evaluation"] | None = None
    ) -> pa.Table:
        """The rows that were recorded; as `read_metrics`."""
        return read_metrics(self.folder, kind)


@dataclass(frozen=True)
class RecordedSweep:
    """A sweep as its record describes it.

    Attributes:
        name: the sweep's name.
        folder: the sweep's folder or URL.
        status: `finished`, `interrupted`, `failed` or `running`.
        metric: the metric that ranks the trials.
        mode: `min` or `max`: whether the least or the greatest value is best.
        trials: a table with a row for each trial: name, status, its parameters by dotted key,
            seed, parent (whose beginning it shares), tokens, value of the metric, reason.
        best: name of the trial with the best value; None if none has one.
    """

    name: str
    folder: str
    status: str
    metric: str
    mode: str
    trials: pa.Table
    best: str | None

    def run(self, trial: str) -> RecordedRun:
        """The run of one trial."""
        return open_run(f"{self.folder}/{trial}")


@dataclass(frozen=True)
class ComparedRuns:
    """What a comparison says.

    Attributes:
        metric: the metric that ranks the runs.
        runs: a table with a row for each run, best configuration first: rank of its
            configuration (None where it can't be compared), name, status, the keys in which they
            differ, seed, tokens, value of the metric, device_hours, cost.
        verdict: the best, by how much, and whether that is more than seed noise.
        warnings: reasons to trust the comparison less, one sentence each.
    """

    metric: str
    runs: pa.Table
    verdict: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RecordedEvaluation:
    """An evaluation as its record describes it.

    Attributes:
        name: the evaluation's name.
        folder: the evaluation's folder or URL.
        model: folder or URL of the model.
        step: step of the run's checkpoint; None for an exported model.
        fingerprint: SHA-256 of the model's weights.
        values: value of each metric as ``EVALUATOR/METRIC``, and of slices with ``[KIND=SLICE]``.
        final: whether a test split was read.
    """

    name: str
    folder: str
    model: str
    step: int | None
    fingerprint: str
    values: Mapping[str, float]
    final: bool

    def examples(self) -> pa.Table:
        """A table with a row for each example: evaluator, id, slices, metrics, prompt, answer."""
        from manta.record.evaluation_record import read_evaluation, read_examples

        place = _place(self.folder)
        return _table(
            {
                "evaluator": row.evaluator,
                "id": row.id,
                **row.slices,
                **{name: top / of for name, (top, of) in row.sums.items() if of},
                **{key: row.shown[key] for key in ("prompt", "answer") if key in row.shown},
            }
            for row in read_examples(place, read_evaluation(place))
        )


def train(
    config: ConfigSource | RunConfig,
    overrides: Overrides | None = None,
    *,
    address: str | None = None,
    fresh: bool = False,
    restart: bool = False,
) -> RecordedRun:
    """Train a run, or continue it from its newest checkpoint, as `manta train` does.

    Args:
        config: a YAML file, the same as a mapping, or a config that was built.
        overrides: values by dotted key.
        address: address of a Ray cluster; by default the Ray that this process is connected to,
            or one started for the run.
        fresh: refuse to continue a run that exists.
        restart: move the run's files aside, and start it anew.

    Raises:
        MantaError: naming what is wrong and what to do; most mistakes before Ray is started.
        KeyboardInterrupt: when interrupted; the run is saved first, and the same call continues it.
    """
    asked = time.time()
    loaded = build(_written(config, overrides), RunConfig)
    from manta.elastic.checks.preflight import absolute
    from manta.elastic.driver.train_command import run_training
    from manta.record.opening import place_of_run

    loaded = absolute(loaded)
    run_training(loaded, address, asked, fresh=fresh, restart=restart)
    return _run_at(place_of_run(loaded))


def sweep(
    config: ConfigSource | SweepConfig,
    overrides: Overrides | None = None,
    *,
    address: str | None = None,
) -> RecordedSweep:
    """Train the trials of a search space, or continue a sweep, as `manta sweep` does.

    Args:
        config: a YAML file, or the same as a mapping, whose `base` and `space` are then looked for
            from the current folder.
        overrides: values of the sweep's own config, by dotted key.
        address: address of a Ray cluster, as in `train`.

    Raises:
        MantaError: naming what is wrong and what to do.
    """
    written = _written(config, overrides)
    here = Path(config).resolve().parent if isinstance(config, str | os.PathLike) else Path.cwd()
    loaded = located(build(written, SweepConfig), here, written.source)
    from manta.tune.sweep_command import run_sweep

    run_sweep(loaded, address)
    return _sweep_at(_place(loaded.sweep.storage) / loaded.sweep.name)


def compare(
    runs: Folder | RecordedRun | RecordedSweep | Sequence[Folder | RecordedRun],
    *,
    metric: str | None = None,
    page: Folder | None = None,
) -> ComparedRuns:
    """Compare runs, or the trials of one sweep, as `manta compare` does.

    Args:
        runs: folders or URLs of the runs, or what `train`, `sweep` and `open_run` returned.
        metric: the metric to rank by; by default the sweep's, or the validation loss.
        page: path of the HTML page to write; by default none is written.

    Raises:
        MantaError: naming what can't be read or compared.
    """
    from manta.show.compare.comparing import fetched
    from manta.show.compare.comparison_page import write_page
    from manta.show.compare.ranking import rank
    from manta.show.compare.reading import load_comparison
    from manta.show.compare.verdict import sentences

    listed = runs if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    with fetched([_folder_of(each) for each in listed]) as (paths, alive):
        comparison = load_comparison(paths, metric, alive)
        ranking = rank(comparison)
        if page is not None:
            write_page(comparison, ranking, Path(page))
    return ComparedRuns(
        metric=comparison.metric,
        runs=_table(_compared_rows(comparison, ranking)),
        verdict=tuple(sentence.text for sentence in sentences(comparison, ranking)),
        warnings=comparison.warnings,
    )


def evaluate(
    model: Folder | RecordedRun,
    config: ConfigSource,
    overrides: Overrides | None = None,
    *,
    step: int | None = None,
    output: Folder | None = None,
    final: bool = False,
) -> RecordedEvaluation:
    """Measure a run's or an exported model, as `manta evaluate` does.

    Args:
        model: a run, or the folder of an exported model.
        config: a YAML file, or the same as a mapping, whose files are then looked for from the
            current folder.
        overrides: values by dotted key.
        step: step of the run's checkpoint; by default the newest.
        output: the result's folder; by default one in the model's folder.
        final: whether the test split may be read, which is noted.

    Raises:
        MantaError: naming what is wrong and what to do; most mistakes before a model is loaded.
    """
    from manta.config.evaluation import EvaluationConfig
    from manta.config.load import build

    loaded = build(_written(config, overrides), EvaluationConfig)
    from manta.evaluate.run_evaluation import evaluate as run

    folder = None if output is None else _place(os.fspath(output))
    made = run(_place(_folder_of(model)), step, loaded, output=folder, final=final)
    return _evaluation_at(made)


def open_evaluation(folder: Folder, name: str | None = None) -> RecordedEvaluation:
    """An existing evaluation.

    Args:
        folder: an evaluation's folder, or that of a model whose last step's one is taken.
        name: name of a model's evaluation; by default any.

    Raises:
        RunError: if there is none.
    """
    from manta.record.evaluation_record import find_evaluation

    return _evaluation_at(find_evaluation(_place(os.fspath(folder)), name))


def compare_evaluations(
    baseline: Folder | RecordedEvaluation, *others: Folder | RecordedEvaluation
) -> pa.Table:
    """Compare evaluations with a baseline's, example by example.

    Args:
        baseline: an evaluation, its folder, or that of its model.
        others: the evaluations to compare with it.

    Returns:
        A table with a row for each metric, and for each slice of the first metric of an evaluator:
        model, metric, baseline, value, low and high (ends of the interval of the difference, null
        without one), won and lost (examples), verdict.

    Raises:
        RunError: if one can't be read, or nothing can be compared.
    """
    from manta.record.evaluation_record import find_evaluation
    from manta.show.evaluations.paired_comparison import compare_evaluations as compare_all

    given = [
        one if isinstance(one, RecordedEvaluation) else open_evaluation(one)
        for one in (baseline, *others)
    ]
    found = compare_all([find_evaluation(_place(one.folder)) for one in given])
    return _table(_difference_rows(found))


def read_metrics(
    run: Folder | RecordedRun, kind: Literal["training", "validation", "evaluation"] | None = None
) -> pa.Table:
    """The metrics of a run as an Arrow table: a row for each step that was recorded.

    Columns are named as in docs/architecture.md, such as `step`, `tokens`, `loss` and `val_loss`; a
    row has null where it has no value. The run may still be training.

    Args:
        run: the run's folder or URL, or the result of `train`.
        kind: `training` for rows of steps alone, `validation` for those of validation, `evaluation`
            for what evaluators found beside training; by default all, as they were recorded.

    Raises:
        RunError: if there is no run in the folder.
    """
    from manta.record.checked_rows import read_checked
    from manta.record.history import kind_of
    from manta.record.run_state import read_state

    place = _place(_folder_of(run))
    read_state(place)
    rows, problem = read_checked(place, lambda reader: list(reader.rows()))
    if problem:
        warnings.warn(f"{place}: {problem}", stacklevel=2)
    return _table(row for row in rows if kind in (None, kind_of(row)))


def write_corpus(folder: Folder, data: Mapping[Any, Any], form: Format) -> str:
    """Write a corpus from tables of your own, whole or not at all; returns its fingerprint.

    The same rows in the same order make the same corpus; if it exists already, nothing changes.

    Args:
        folder: the corpus's folder.
        data: rows of each split (train, validation, test), by the name of their source, or rows
            alone where there is one source. Rows are Arrow tables or batches, mappings from column
            to value, or any iterable of these, which is read once.
        form: format of the samples, such as `manta.sample.rows.RowFormat`; see docs/own_task.md.

    Raises:
        CorpusError: if rows don't fit the format's schema, or the folder holds something else.
    """
    from manta.corpus.write import write_corpus as write

    return write(os.fspath(folder), data, form).fingerprint


def open_run(folder: Folder) -> RecordedRun:
    """An existing run.

    Raises:
        RunError: if there is no run in the folder.
    """
    return _run_at(_place(os.fspath(folder)))


def open_sweep(folder: Folder) -> RecordedSweep:
    """An existing sweep.

    Raises:
        RunError: if there is no sweep in the folder.
    """
    return _sweep_at(_place(os.fspath(folder)))


# ---------------------------------------------------------------------------------------------


def _written(
    config: ConfigSource | RunConfig | SweepConfig, overrides: Overrides | None
) -> Written:
    if isinstance(config, RunConfig | SweepConfig):
        import yaml

        written = given(yaml.safe_load(dump(config)), "config")
    elif isinstance(config, Mapping):
        written = given(config, "config")
    else:
        written = read(os.fspath(config))
    values = dict(overrides or {})
    return change(written, values, dict.fromkeys(values, "overrides"))


def _folder_of(run: Folder | RecordedRun | RecordedSweep) -> str:
    return run.folder if isinstance(run, RecordedRun | RecordedSweep) else os.fspath(run)


def _place(folder: str) -> Place:
    """A folder or URL as an absolute place, whatever the working directory becomes."""
    from manta.elastic.checks.preflight import absolute_path
    from manta.storage.place import place_of

    return place_of(absolute_path(folder))


def _run_at(place: Place) -> RecordedRun:
    from manta.record.goodput import device_seconds, goodput
    from manta.record.run_state import read_state

    state = read_state(place)
    return RecordedRun(
        name=state.name,
        folder=str(place),
        status=state.status,
        steps=state.totals.steps,
        tokens=state.totals.tokens,
        loss=state.results.loss,
        val_loss=state.results.val_loss,
        best_val_loss=state.results.best_val_loss,
        device_hours=state.totals.device_seconds / SECONDS_AN_HOUR,
        cost=state.totals.cost,
        goodput=goodput(state),
        device_seconds=device_seconds(state),
    )


def _sweep_at(place: Place) -> RecordedSweep:
    from manta.record.sweep_state import read_sweep

    state = read_sweep(place)
    rows = [
        {
            "name": trial.name,
            "status": trial.status,
            **_plain(trial.params),
            "seed": trial.seed,
            "parent": trial.parent,
            "tokens": trial.tokens,
            "value": trial.value,
            "reason": trial.reason,
        }
        for trial in state.trials
    ]
    ended = [t for t in state.trials if t.value is not None and t.status in ("finished", "stopped")]
    sign = 1 if state.mode == "min" else -1
    best = min(ended, key=lambda trial: sign * (trial.value or 0.0), default=None)
    return RecordedSweep(
        name=state.name,
        folder=str(place),
        status=state.status,
        metric=state.metric,
        mode=state.mode,
        trials=_table(rows),
        best=best.name if best else None,
    )


def _evaluation_at(place: Place) -> RecordedEvaluation:
    from manta.record.evaluation_record import read_evaluation

    record = read_evaluation(place)
    return RecordedEvaluation(
        name=record.name,
        folder=str(place),
        model=record.model.place,
        step=record.model.step,
        fingerprint=record.model.fingerprint,
        values=record.values(),
        final=record.final,
    )


def _difference_rows(comparisons: Iterable[PairedComparison]) -> Iterable[dict[str, Any]]:
    from manta.record.metric_text import model_name

    for comparison in comparisons:
        for name, difference in comparison.differences().items():
            yield {
                "model": model_name(comparison.second.model),
                "metric": name,
                "baseline": difference.first,
                "value": difference.second,
                "low": difference.low,
                "high": difference.high,
                "won": difference.won,
                "lost": difference.lost,
                "verdict": difference.verdict,
            }


def _compared_rows(comparison: Comparison, ranking: Ranking) -> Iterable[dict[str, Any]]:
    rank = 0
    for configuration in ranking.ranked:
        ranked = ranking.entry(ranking.main, configuration) is not None
        rank += ranked
        for trial in configuration.trials:
            yield {"rank": rank if ranked else None, **_compared_row(trial)}


def _compared_row(trial: ComparedRun) -> dict[str, Any]:
    seconds = trial.device_seconds
    return {
        "name": trial.name,
        "status": trial.status,
        **_plain(trial.params),
        "seed": trial.seed,
        "tokens": trial.reached,
        "value": trial.value,
        "device_hours": None if seconds is None else seconds / SECONDS_AN_HOUR,
        "cost": trial.cost,
    }


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as cells of a table: schedules and other structures as JSON."""
    return {
        key: json.dumps(value) if isinstance(value, dict | list) else value
        for key, value in params.items()
    }


def _table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table, with a column for each key that one of them has."""
    import pyarrow as pa

    listed = list(rows)
    names = list(dict.fromkeys(name for row in listed for name in row))
    return pa.table({name: _column([row.get(name) for row in listed]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    """Values as a column; as text where their types differ, such as `0.1` and `10%`."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])

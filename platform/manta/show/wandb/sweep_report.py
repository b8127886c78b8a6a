"""A W&B Report of a sweep: its trials drawn side by side, on a page of W&B's own.

Made by the optional package ``wandb-workspaces`` (``pip install manta-train[reports]``), which
asks the W&B server while it builds a report. Tests build the blocks and see that a report is
made once and brought up to date after; that W&B draws them is not tested here.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any

from manta.config.metrics import in_wandb
from manta.record.param_names import SEED, column_names
from manta.record.sweep_state import SweepState
from manta.show.wandb.wandb_run import RunInfo

log = logging.getLogger(__name__)

# The package has no limit of its own, and the sweep's run is closed after the report.
REPORT_SECONDS = 30.0


def try_report(
    state: SweepState, info: RunInfo, place: tuple[str, str], run_url: str | None, url: str | None
) -> str | None:
    """Make a report of the sweep, or bring the one at `url` up to date; returns its address.

    Without the package, or when W&B refuses or takes too long, nothing is made.

    Args:
        state: of the sweep.
        info: of its run in W&B.
        place: entity and project.
        run_url: of its run.
        url: of the report that was made before.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        log.debug("no W&B report: the package wandb-workspaces is not installed")
        return url
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(_save(reports, state, info, place, run_url, url))
        except Exception as error:  # whatever the package and the server come up with
            log.warning("no W&B report: %s", error)
            answers.put(url)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answers.get(timeout=REPORT_SECONDS)
    except queue.Empty:
        log.warning("no W&B report: it took more than %g s", REPORT_SECONDS)
        return url


def _save(
    reports: Any,
    state: SweepState,
    info: RunInfo,
    place: tuple[str, str],
    run_url: str | None,
    url: str | None,
) -> str:
    entity, project = place
    report = _found(reports, url) or reports.Report(project=project, entity=entity)
    report.title = f"Sweep {state.name}"
    report.description = state.question.strip().partition("\n")[0]
    report.blocks = blocks(reports, state, info, place, run_url)
    report.save()
    return str(report.url)


def _found(reports: Any, url: str | None) -> Any:
    """The report that was made before, unless somebody removed it."""
    if url is None:
        return None
    try:
        return reports.Report.from_url(url)
    except Exception as error:
        log.debug("%s: %s; another is made", url, error)
        return None


def blocks(
    reports: Any, state: SweepState, info: RunInfo, place: tuple[str, str], run_url: str | None
) -> list[Any]:
    """Parallel coordinates, importance, a scatter for each parameter, curves; then the run."""
    names = column_names(key for one in state.trials for key in one.params if key != SEED)
    settings = [reports.Config(f"sweep.{name}") for name in names.values()]
    metric = reports.SummaryMetric("metric")
    axes = [reports.ParallelCoordinatesPlotColumn(metric=one) for one in [*settings, metric]]
    panels = [
        reports.ParallelCoordinatesPlot(columns=axes, layout=reports.Layout(w=24, h=10)),
        reports.LinePlot(x="tokens", y=[in_wandb(state.metric)], layout=reports.Layout(w=12, h=8)),
        reports.ParameterImportancePlot(with_respect_to="metric"),
        reports.ScatterPlot(x=reports.SummaryMetric("compute_hours"), y=metric),
        *(reports.ScatterPlot(x=one, y=metric) for one in settings),
    ]
    group = (info.section.group or state.name).replace("'", "\\'")
    entity, project = place
    trials = reports.Runset(
        entity=entity,
        project=project,
        name="trials",
        filters=f"Metric('Group') == '{group}' and Metric('JobType') == 'trial'",
    )
    found = [reports.PanelGrid(runsets=[trials], panels=panels)]
    if run_url is not None:
        link = reports.Link(text="table of trials, tree, comparison", url=run_url)
        found.append(reports.P(text=["The sweep's own run: ", link]))
    return found

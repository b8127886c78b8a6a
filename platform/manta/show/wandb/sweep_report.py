"""A W&B Report of a sweep: a page in W&B that draws its trials side by side.

The optional package ``wandb-workspaces`` (``pip install manta-train[reports]``) makes it and
asks the W&B server meanwhile. Tests build the blocks and check that a report is made once and
then updated; how W&B draws it is not tested.
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

# The package has no timeout, and the sweep's W&B run can be closed only after the report.
REPORT_SECONDS = 30.0


def try_report(
    state: SweepState, info: RunInfo, target: tuple[str, str], run_url: str | None, url: str | None
) -> str | None:
    """Make a report of the sweep, or update the one at `url`; returns its address.

    Returns None without the package, or if W&B refuses or takes too long.

    Args:
        state: the sweep's record.
        info: the facts with which the sweep's W&B run was opened.
        target: W&B entity and project name.
        run_url: address of the sweep's W&B run.
        url: address of an earlier report; None if there is none.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        log.debug("no W&B report: the package wandb-workspaces is not installed")
        return url
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(_save(reports, state, info, target, run_url, url))
        except Exception as error:  # the package and the server may raise anything
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
    target: tuple[str, str],
    run_url: str | None,
    url: str | None,
) -> str:
    entity, project = target
    report = _found(reports, url) or reports.Report(project=project, entity=entity)
    report.title = f"Sweep {state.name}"
    report.description = state.question.strip().partition("\n")[0]
    report.blocks = blocks(reports, state, info, target, run_url)
    report.save()
    return str(report.url)


def _found(reports: Any, url: str | None) -> Any:
    """The earlier report, unless somebody removed it."""
    if url is None:
        return None
    try:
        return reports.Report.from_url(url)
    except Exception as error:
        log.debug("%s: %s; another is made", url, error)
        return None


def blocks(
    reports: Any, state: SweepState, info: RunInfo, target: tuple[str, str], run_url: str | None
) -> list[Any]:
    """The report's blocks: parallel coordinates, importance, scatter plots, curves, the run."""
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
    entity, project = target
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

"""`manta sweep`: from a sweep config to trained, comparable trials."""

from __future__ import annotations

import io
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.execution import class_cache

from manta.config.errors import TrainingError
from manta.elastic.driver.signals import stop_signals
from manta.record.sweep_state import SweepState, read_sweep
from manta.show.compare.live_page import LivePage
from manta.storage.exclusive import RunHold, pull_trials
from manta.storage.store import StorePath
from manta.storage.working import push
from manta.tune.coordinator import open_coordinator
from manta.tune.leg import run_leg
from manta.tune.ray_tune import Beat, ReadyStages
from manta.tune.sweep_plan import Outline

# Folder of Ray Tune's own files, which are not needed to continue a sweep.
TUNE_FOLDER = ".tune"
# A leg's process only waits for its workers, but Ray Tune requires it to ask for some resource: a
# byte of memory. With a thousandth of a CPU, a machine of two CPUs would have no room for two
# workers of one CPU each, and legs that could train at once would train one after the other.
LEG_BUNDLE = {"memory": 1}
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Manta handles Ctrl-C: trials are saved first
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # what Ray Tune saves is never read
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}


def sweep(
    outline: Outline, show: Callable[[str], None] = lambda line: None
) -> tuple[SweepState, Literal["finished", "interrupted"]]:
    """Train all trials of a sweep on the Ray that this process is connected to.

    An interrupted sweep is continued.

    Args:
        outline: the sweep's outline; no other process may use the sweep's folder.
        show: called with a line for each event.

    Raises:
        RunError: if the folder is another sweep's, or in use.
        TrainingError: if no trial reached its end.
        KeyboardInterrupt: if interrupted a second time.
    """
    folder = outline.folder
    folder.mkdir(parents=True, exist_ok=True)
    hold = RunHold(outline.place)
    try:
        pull_trials(outline.place)
        status = _run(outline, show)
    finally:
        hold.release()
    state = read_sweep(folder)
    if status == "finished" and not any(t.status in ("finished", "stopped") for t in state.trials):
        reasons = "\n".join(f"  {t.name}: {t.reason}" for t in state.trials if t.reason)
        raise TrainingError(f"no trial of the sweep reached its end:\n{reasons}")
    return state, status


def _run(outline: Outline, show: Callable[[str], None]) -> Literal["finished", "interrupted"]:
    id = uuid.uuid4().hex[:12]
    with (
        LivePage(outline.folder, _published(outline)),
        open_coordinator(outline, id) as coordinator,
    ):
        asked_to_stop = threading.Event()
        with stop_signals(asked_to_stop):
            _fit(coordinator, outline, asked_to_stop, show)
        status: Literal["finished", "interrupted"] = (
            "interrupted" if asked_to_stop.is_set() else "finished"
        )
        ray.get(coordinator.close.remote(status))
    return status


def _published(outline: Outline) -> Callable[[Path], None]:
    """What is to be done with a page: if the sweep is in a store, it goes there."""

    def publish(page: Path) -> None:
        if isinstance(outline.place, StorePath):
            push(page.parent, outline.place, [page.name])

    return publish


def _leg_resources() -> tune.PlacementGroupFactory:
    """Resources of a leg, on the driver's node, whose folder legs work in.

    On a worker's node a leg would die with the node, or keep an idle node from being released.
    """
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return tune.PlacementGroupFactory([LEG_BUNDLE], bundle_label_selector=[here])


def _fit(
    coordinator: ActorHandle,
    outline: Outline,
    asked_to_stop: threading.Event,
    show: Callable[[str], None],
) -> None:
    os.environ.update(TUNE_ENVIRONMENT)
    _keep_keys_here()
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(outline.config.concurrent)
    leg = tune.with_resources(
        tune.with_parameters(run_leg, coordinator=coordinator), _leg_resources()
    )
    tuner = tune.Tuner(
        leg,
        tune_config=tune.TuneConfig(
            search_alg=ReadyStages(coordinator), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(outline.folder.absolute() / TUNE_FOLDER),
            callbacks=[Beat(coordinator, asked_to_stop, show)],
            verbose=0,
        ),
    )
    # Ray Tune prints a banner even with verbose=0.
    with redirect_stdout(io.StringIO()):
        tuner.fit()


def _keep_keys_here() -> None:
    """Don't let Ray Tune copy the driver's keys of a store into each trial's runtime environment.

    Ray logs runtime environments, and its dashboard shows them. Nodes have keys of their own.
    """
    # Internal to Ray 2.60; the keys planted in tests/e2e/test_jobs.py guard it.
    names = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in names if not name.startswith("AWS_")}

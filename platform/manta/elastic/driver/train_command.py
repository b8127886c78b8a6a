"""The `manta train` command: check, start Ray, train."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from manta.cluster.session import cluster_of, ray_session
from manta.config.run import RunConfig
from manta.elastic.checks.machine import check_machine
from manta.elastic.checks.preflight import check, check_continues, refuse_existing
from manta.elastic.driver.model_trial import trying
from manta.elastic.worker.preload import preloaded_for
from manta.record.aside import set_aside
from manta.record.opening import place_of_run


def run_training(
    config: RunConfig,
    address: str | None,
    submitted: float,
    *,
    fresh: bool = False,
    restart: bool = False,
) -> None:
    """Train a run to its end, or continue it.

    Imports of workers and driver run in parallel with Ray's start.

    Args:
        config: the run's config, with absolute paths.
        address: address of a Ray cluster; if None, a Ray is started on this machine.
        submitted: time of the user's command, in seconds since the epoch.
        fresh: refuse to continue a run that exists.
        restart: move what the run has recorded aside, and start it anew.

    Raises:
        MantaError: naming the mistake and the remedy; most mistakes before Ray is started.
        KeyboardInterrupt: when interrupted; the run is saved first.
    """
    if fresh:
        refuse_existing(config)
    if restart and (aside := set_aside(place_of_run(config))):
        print(f"--restart: what the run had is in {aside} now", flush=True)
    here = cluster_of(address) is None
    if here:
        check_machine(config)
    with preloaded_for(config, address):
        checked = check(config)
        check_continues(checked)
        with trying([checked] if here else []) as trials, ThreadPoolExecutor(1) as background:
            for remark in checked.remarks():
                print(f"note: {remark}", flush=True)
            from manta.elastic.driver.trainer import load_controller, train

            loading = background.submit(load_controller)
            checked = trials.checked(0) if here else checked
            spent = {"checks": time.time() - submitted}
            with ray_session(address):
                spent["ray"] = time.time() - submitted - spent["checks"]
                loading.result()
                from manta.elastic.driver.early_workers import begin_workers

                checked, begun = begin_workers(checked)
                train(checked, submitted=submitted, spent=spent, begun=begun)

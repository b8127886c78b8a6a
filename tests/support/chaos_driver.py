"""A driver that trains one run after the other on a cluster, in a process of its own.

Each line of standard input is an order as JSON, a run's config and whether its workers come from
a pool and go back to it; each line of standard output is how the run ended. Starting a driver,
and workers, for each run would cost many seconds.
"""

from __future__ import annotations

import json
import sys
from functools import cache

from manta.cluster.session import ray_session
from manta.config import MantaError, RunConfig
from manta.elastic.checks.preflight import absolute, check, check_model
from manta.elastic.controller.warm_workers import WarmWorkers
from manta.elastic.driver.trainer import open_worker_pool, train
from manta.elastic.worker.preload import preloaded


@cache
def pool(*resources: tuple[str, float]) -> WarmWorkers | None:
    """Workers with such needs, for this driver's runs one after the other."""
    return open_worker_pool(dict(resources))


def main(address: str) -> None:
    """Serve until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    with preloaded({"CPU": 1}, "llama"), ray_session(address):
        sys.stdout = sys.stderr  # as the session has it now: apart from what Ray itself says
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            try:
                order = json.loads(line)
                config = absolute(RunConfig.model_validate(order["config"]))
                checked = check_model(check(config))
                needs = checked.config.scaling.resources_per_worker
                workers = pool(*needs.items()) if order["pooled"] else None
                answer = {"status": train(checked, pool=workers).status}
            except MantaError as error:
                answer = {"status": "failed", "error": str(error)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

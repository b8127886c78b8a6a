"""A driver that trains one run after the other on a cluster, in a process of its own.

Each line of standard input is a run's config as JSON, each line of standard output how it
ended: starting a driver for each run would cost seconds.
"""

from __future__ import annotations

import json
import sys

from manta.cluster.session import ray_session
from manta.config import MantaError, RunConfig
from manta.elastic.preflight import absolute, check, check_model
from manta.elastic.trainer import train


def main(address: str) -> None:
    """Serve until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    with ray_session(address):
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            try:
                checked = check(absolute(RunConfig.model_validate_json(line)))
                check_model(checked)
                answer = {"status": train(checked).status}
            except MantaError as error:
                answer = {"status": "failed", "error": str(error)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""Time to save: a job that is stopped gets its signal, and as long as a checkpoint takes.

Ray's job server sends SIGTERM to a job's driver, and SIGKILL three seconds later. How long it
waits is read, when it comes to that, in the environment of the process that watches over the
job, an actor that belongs to it. The driver tells that process to wait longer: so a job can be
stopped by `manta stop`, `ray job stop` or the dashboard, however it was submitted.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

log = logging.getLogger(__name__)

# An upper bound: it ends as soon as the driver does.
STOP_SECONDS = 900
WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
ASK_SECONDS = 10.0


def submission_id() -> str | None:
    """The id of the job that this process is the driver of, if it was submitted."""
    metadata = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("metadata") or {}
    found: str | None = metadata.get("job_submission_id")
    return found


def ask_for_time_to_save() -> None:
    """Have Ray wait for the checkpoint when this job is stopped. Nothing outside of a job."""
    job = submission_id()
    if job is None:
        return
    import ray
    from ray.dashboard.modules.job.common import (
        JOB_ACTOR_NAME_TEMPLATE,
        SUPERVISOR_ACTOR_RAY_NAMESPACE,
    )
    from ray.exceptions import RayError

    try:
        name = JOB_ACTOR_NAME_TEMPLATE.format(job_id=job)
        supervisor = ray.get_actor(name, namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE)
        ray.get(supervisor.__ray_call__.remote(_patience()), timeout=ASK_SECONDS)
    except (RayError, ValueError) as error:
        log.warning("this job has 3 s to save when it is stopped (%s)", error)


def _patience() -> Callable[[object], None]:
    """A function that travels by itself: there, this package can't be imported."""
    wait, seconds = WAIT, str(STOP_SECONDS)

    def be_patient(supervisor: object) -> None:
        import os

        os.environ.setdefault(wait, seconds)

    return be_patient

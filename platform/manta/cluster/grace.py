"""Time to save: a job that is stopped has as long as its checkpoint takes.

Ray's job server sends SIGTERM to a job's driver, and SIGKILL three seconds later. The job's
supervisor, an actor, reads those seconds from its environment at the time of the stop. The driver
has the supervisor set them higher, so that the checkpoint is saved whether `manta stop`, `ray job
stop` or the dashboard stops the job, and however it was submitted.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

log = logging.getLogger(__name__)

# Longest wait; the supervisor stops waiting as soon as the driver ends.
STOP_SECONDS = 900
WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
ASK_SECONDS = 10.0


def submission_id() -> str | None:
    """The id of the submitted job whose driver this process is; None if it is of no job."""
    metadata = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("metadata") or {}
    found: str | None = metadata.get("job_submission_id")
    return found


def ask_for_time_to_save() -> None:
    """Have Ray wait for the checkpoint when this job is stopped; outside of a job, do nothing."""
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
        log.warning(
            "can't ask Ray for time to save: if this job is stopped, it has 3 s to save (%s)", error
        )


def _patience() -> Callable[[object], None]:
    """A function that is pickled whole: the supervisor's process can't import this package."""
    wait, seconds = WAIT, str(STOP_SECONDS)

    def be_patient(supervisor: object) -> None:
        import os

        os.environ.setdefault(wait, seconds)

    return be_patient

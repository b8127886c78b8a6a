"""Checks of a config before it is sent to a cluster as a job."""

from __future__ import annotations

import json
from pathlib import Path

from manta.cluster.submit import SentConfig
from manta.config.run import RunConfig
from manta.config.sweep import SweepConfig
from manta.config.tuning import TuningConfig
from manta.record.provenance import SENT_ALONG, git_state
from manta.schedule import Schedule


def check_before_sending(
    config: SentConfig,
) -> None:
    """Check a config as far as that is possible without its corpus.

    Raises:
        ConfigError: if a schedule, space or trial isn't valid.
    """
    if isinstance(config, RunConfig):
        Schedule.resolve(config.schedule, config.train.seq_len)
    elif isinstance(config, SweepConfig):
        # Imports Ray Tune, which takes a second and which a run doesn't need.
        from manta.tune.sweep_plan import Outline

        Outline(config)
    elif isinstance(config, TuningConfig):
        from manta.recommend.tune_command import check_phases

        check_phases(config)


def provenance() -> dict[str, str]:
    """Facts that a job can't find out on the cluster, to send along: the commit of its code."""
    state = git_state(Path.cwd())
    return {} if state is None else {SENT_ALONG: json.dumps(state)}

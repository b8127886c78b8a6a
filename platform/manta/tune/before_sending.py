"""What is looked at before a config is sent to a cluster as a job."""

from __future__ import annotations

import json
from pathlib import Path

from manta.config.corpus import CorpusConfig
from manta.config.run import RunConfig
from manta.config.sweep import SweepConfig
from manta.record.provenance import SENT_ALONG, git_state
from manta.schedule import Schedule


def check_before_sending(config: RunConfig | SweepConfig | CorpusConfig) -> None:
    """Find what is wrong with a config as far as it can be told without its corpus.

    Raises:
        ConfigError: when a schedule, space or trial can't be.
    """
    if isinstance(config, RunConfig):
        Schedule.resolve(config.schedule, config.train.seq_len)
    elif isinstance(config, SweepConfig):
        # It imports Ray Tune, which takes a second, and of which a run has no need.
        from manta.tune.sweep_plan import Outline

        Outline(config)


def provenance() -> dict[str, str]:
    """What a job can't find out where it runs: the commit of its code."""
    state = git_state(Path.cwd())
    return {} if state is None else {SENT_ALONG: json.dumps(state)}

"""The fixtures of recorded runs, which tests of `manta.record` and `manta.show` share."""

from recorded_runs import *  # noqa: F403

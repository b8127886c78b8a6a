"""Fixtures of records, and of recorded runs, which tests of `manta.show` have too."""

from recorded_runs import *  # noqa: F403
from run_records import open_record as open_record

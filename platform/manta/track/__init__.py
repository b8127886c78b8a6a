"""What a run leaves behind: its record, its Weights & Biases run, its console line, its report.

Everything here runs on the driver, so that a worker's death neither ends nor repeats
anything. The files of the run directory are the truth; W&B, the console and the report
are views of them.
"""

from manta.track.record import RunRecord
from manta.track.report import write_report
from manta.track.state import GroupStart
from manta.track.tracker import Tracker
from manta.track.wandb_log import check_wandb

__all__ = ["GroupStart", "RunRecord", "Tracker", "check_wandb", "write_report"]

"""Learning rate and batch size as pure functions of the tokens consumed."""

from manta.schedule.plateaus import Plateau
from manta.schedule.schedule import Schedule, Step
from manta.schedule.segment import Segment

__all__ = ["Plateau", "Schedule", "Segment", "Step"]

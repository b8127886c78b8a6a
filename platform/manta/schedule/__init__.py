"""Learning rate and batch size as pure functions of the tokens consumed."""

from manta.schedule.plateaus import Plateau
from manta.schedule.segment import Segment
from manta.schedule.steps import Schedule, Step

__all__ = ["Plateau", "Schedule", "Segment", "Step"]

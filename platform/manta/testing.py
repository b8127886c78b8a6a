"""For tests of what users write themselves: is an objective exact?

from manta.testing import check_objective
"""

from manta.objective.exactness import NotExactError, check_objective

__all__ = ["NotExactError", "check_objective"]

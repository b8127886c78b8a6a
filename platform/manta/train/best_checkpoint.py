"""Which checkpoint of a run is the best, by what the config says; pure, but for reading results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from manta.config.best import BestSection
from manta.config.metrics import VAL_LOSS
from manta.state.checkpoint_files import Inventory
from manta.train.awaited_evaluations import AwaitedEvaluations

# Whether all bounds hold, and the metric's value, negated where less is better: more is better.
Score = tuple[bool, float]


def score_of(section: BestSection, values: Mapping[str, float | None]) -> Score | None:
    """How good a checkpoint is; None if its metric was not measured.

    Args:
        section: the metric, and bounds.
        values: values of the checkpoint, by metric.
    """
    value = values.get(section.metric)
    if value is None:
        return None
    meets = all(bounds.holds(values.get(name)) for name, bounds in section.require.items())
    return meets, -value if section.less else value


def improves(score: Score, best: Score | None, least: float) -> bool:
    """Whether a score is better than the best before, and by more than `least` in its metric."""
    if best is None or score[0] != best[0]:
        return best is None or score[0]
    return score[1] > best[1] + least


def since_best(scores: Iterable[Score], least: float) -> int:
    """Number of scores since the last that was better than all before it."""
    best, since = None, 0
    for score in scores:
        if improves(score, best, least):
            best, since = score, 0
        else:
            since += 1
    return since


class BestCheckpoint:
    """Finds the best of a run's checkpoints.

    Args:
        section: the metric that decides, and bounds.
        awaited: the run's evaluations beside training, and their results.
    """

    def __init__(self, section: BestSection, awaited: AwaitedEvaluations):
        self._section, self._awaited = section, awaited

    def steps(self, there: Sequence[Inventory]) -> Set[int]:
        """The step of the best checkpoint, of several the first; none if none is measured.

        Args:
            there: checkpoints that are whole, oldest first.
        """
        scores = {one.state.step: self._score(one, there[-1]) for one in there}
        known = {step: score for step, score in scores.items() if score is not None}
        if not known:
            return frozenset()
        best = max(known.values())
        return {min(step for step, score in known.items() if score == best)}

    def _score(self, one: Inventory, newest: Inventory) -> Score | None:
        values: dict[str, float | None] = {}
        # Losses of other samples, as an older version took them, can't be compared.
        if one.state.eval_sample == newest.state.eval_sample:
            values |= {VAL_LOSS: one.state.val_loss, **one.state.measured}
        if self._section.by_evaluators and (found := self._awaited.result_of(one)):
            values |= found.values()
        return score_of(self._section, values)

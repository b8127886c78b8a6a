"""Which checkpoints of a run evaluators have yet to measure: a function of what lies on storage.

Light to import: workers keep those checkpoints, and the driver has them evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from manta.config.errors import RunError
from manta.config.evaluation_files import evaluation_of
from manta.config.run import RunConfig
from manta.record.evaluation_record import EvaluationRecord, evaluation_folder, read_evaluation
from manta.record.run_state import read_fork
from manta.schedule import Schedule
from manta.schedule.due import due
from manta.state.checkpoint_files import Inventory
from manta.storage.place import Place, tree
from manta.storage.run_folder import EVALUATIONS


class AwaitedEvaluations:
    """The evaluations that a run's config asks for, and their results.

    Args:
        config: the run's config; without evaluators, nothing is awaited.
        schedule: the run's resolved schedule.
        place: the run's folder, or its URL in a store.
    """

    def __init__(self, config: RunConfig, schedule: Schedule, place: Place):
        self._config, self._schedule, self._place = config, schedule, place
        evaluation = evaluation_of(config)
        self.name = "" if evaluation is None else evaluation.name

    def steps(self, there: Sequence[Inventory]) -> Set[int]:
        """The steps of checkpoints that are due and have no result.

        Args:
            there: checkpoints that are whole.
        """
        if not self.name:
            return frozenset()
        fork = read_fork(self._place)
        first = 0 if fork is None else fork.step
        return {
            one.state.step
            for one in there
            if one.state.step > first
            and self._is_due(one.state.step)
            and self.result_of(one) is None
        }

    def _is_due(self, step: int) -> bool:
        if step > self._schedule.steps:
            return False
        return due(self._schedule.step(step - 1), self._config, self._schedule).measures

    def result_of(self, checkpoint: Inventory) -> EvaluationRecord | None:
        """The result of this very checkpoint; None if there is none, or one of another state."""
        found = self.result(checkpoint.state.step) if self.name else None
        return found if found and found.model.checkpoint == checkpoint.stamp else None

    def folder(self, step: int) -> Place:
        """The folder of a checkpoint's result."""
        return evaluation_folder(self._place, self.name, step)

    def result(self, step: int) -> EvaluationRecord | None:
        """The result at a step; None if there is none, or it is damaged."""
        try:
            return read_evaluation(self.folder(step))
        except RunError:
            return None

    def results(self) -> Iterator[tuple[int, EvaluationRecord]]:
        """All results with their steps, in order."""
        names = {name.partition("/")[0] for name in tree(self._place / EVALUATIONS)}
        for name in sorted(names):
            start, _, step = name.rpartition("-step-")
            if start == self.name and step.isdigit() and (found := self.result(int(step))):
                yield int(step), found

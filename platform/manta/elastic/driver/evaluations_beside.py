"""Evaluates a run's checkpoints beside its training: a task of Ray for one after the other.

What is due, and what is done, follows from the files of the run alone, so that a driver that
begins anew knows it as well as the one before. A checkpoint that is due is kept by the workers
until its result is there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from manta.config.errors import ErrorReport
from manta.config.evaluation_files import evaluation_of
from manta.elastic.checks.evaluators_data import resources_of
from manta.elastic.checks.preflight import Checked
from manta.elastic.driver.follower import Watcher
from manta.elastic.worker.environment import runtime_env_of
from manta.elastic.worker.evaluation_task import evaluate_checkpoint
from manta.record.evaluation_record import EvaluationRecord, evaluation_folder
from manta.record.history import Tail, kind_of
from manta.schedule.due import steps_at
from manta.show.tracker import Tracker
from manta.state.checkpoint_files import Inventory, inventories
from manta.state.pruning import prune
from manta.storage.place import put, remove
from manta.storage.run_folder import CHECKPOINTS, EVALUATION, METRICS
from manta.train.awaited_evaluations import AwaitedEvaluations
from manta.train.best_checkpoint import BestCheckpoint, score_of, since_best

# A task whose process or node dies is tried so often in all.
TRIES = 4
# Seconds after which people are told that an evaluation waits for a free device.
PATIENCE_SECONDS = 20.0
# Seconds that the end of a cancelled task is waited for.
CANCEL_SECONDS = 10.0


@dataclass
class _Running:
    """The evaluation of a checkpoint that was asked for.

    Attributes:
        step: step of the checkpoint.
        task: reference to the task's result.
        asked: time at which the task was asked for, in seconds.
        begun: whether the task has its device.
    """

    step: int
    task: ray.ObjectRef[Any]
    asked: float
    begun: bool = False


class EvaluationsBeside:
    """The evaluations of one run's checkpoints, for its driver's thread.

    Args:
        checked: the run; without evaluators in its config, all calls do nothing.
        tracker: the run's tracker, which takes rows and notes.
        mailbox: the run's mailbox.
        watcher: follows the run, and is told of rows.
        clock: returns the time in seconds.

    Attributes:
        outstanding: number of evaluations that were due and not done at the last look at storage.
        out_of_patience: whether the run is to stop, as results have not become better for as many
            evaluations as the config says.
    """

    def __init__(
        self,
        checked: Checked,
        tracker: Tracker,
        mailbox: ActorHandle,
        watcher: Watcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._checked, self._tracker, self._mailbox = checked, tracker, mailbox
        self._watcher, self._clock = watcher, clock
        self._awaited = AwaitedEvaluations(checked.config, checked.schedule, checked.place)
        self._config = evaluation_of(checked.config)
        self._running: _Running | None = None
        self._look = self._config is not None  # whether storage may have something new
        self._tries: Counter[int] = Counter()
        self._given_up: set[int] = set()
        self._told = False
        self.outstanding = 0
        self.out_of_patience = False
        if self._config is not None:
            self._record([found for _, found in self._awaited.results()])

    def checkpoint(self, step: int) -> None:
        """Take that the checkpoint after a step is whole."""
        self._look = self._config is not None

    def begun(self, step: int) -> None:
        """Take that the evaluation of a step's checkpoint has its device."""
        if self._running is not None and self._running.step == step:
            self._running.begun = True

    def rewound(self, step: int) -> None:
        """Take that the run goes back to a step: what was found of later ones is void."""
        if self._config is None:
            return
        if self._running is not None and self._running.step > step:
            self._cancel()
        for later, _ in list(self._awaited.results()):
            if later > step:
                with suppress(OSError):
                    remove(self._awaited.folder(later), EVALUATION)
        self._look = True

    def poll(self) -> None:
        """Take what is done, and ask for what is due. Cheap; call it now and then."""
        if self._running is not None:
            self._take(self._running)
        if self._running is None and self._look:
            steps, self._look = self._due(), False
            self.outstanding = len(steps)
            if steps:
                self._start(min(steps))

    def _due(self) -> set[int]:
        there = inventories(self._checked.place / CHECKPOINTS).values()
        whole = [one for one in there if isinstance(one, Inventory)]
        return set(self._awaited.steps(whole)) - self._given_up

    # ------------------------------------------------------------------------------ one of them

    def _start(self, step: int) -> None:
        resources = resources_of(self._checked.config)
        others = {name: n for name, n in resources.items() if name not in ("CPU", "GPU")}
        # The process ends with the task: it is nicer than others, and may hold a device's memory.
        task = ray.remote(max_calls=1)(evaluate_checkpoint).options(
            num_cpus=resources.get("CPU", 0),
            num_gpus=resources.get("GPU", 0),
            resources=others,
            max_retries=0,
            scheduling_strategy="DEFAULT",  # of a sweep's trial too, not in its placement group
            runtime_env=runtime_env_of(resources),
            name=f"evaluation of {self._checked.config.run.name}, step {step}",
        )
        self._tries[step] += 1
        ref = task.remote(self._checked.place, step, self._config, self._mailbox)
        self._running = _Running(step, ref, self._clock())

    def _take(self, running: _Running) -> None:
        if not ray.wait([running.task], timeout=0)[0]:
            self._tell_of_waiting(running)
            return
        self._running, self._look = None, True
        try:
            problem: ErrorReport | None = ray.get(running.task)
        except RayTaskError as error:  # a defect, of Manta or of the user's own code
            self._give_up(running.step, (str(error).strip().splitlines() or ["?"])[-1])
            return
        except RayError as error:  # its process or its node is gone
            self._again(running.step, (str(error).splitlines() or [type(error).__name__])[0])
            return
        if problem is not None:
            self._give_up(running.step, problem.text)
        elif found := self._awaited.result(running.step):
            self._record([found])

    def _record(self, found: Sequence[EvaluationRecord]) -> None:
        for one in found:
            with suppress(OSError):  # the store has the result itself
                self._keep_here(one)
        rows = [one.history_row() for one in found]
        if rows:
            self._tracker.evaluated(rows)
            if self._watcher is not None:
                for row in rows:
                    self._watcher.metrics(row)
            self.out_of_patience = self._is_out_of_patience()

    def _is_out_of_patience(self) -> bool:
        """Whether as many results as the config says are no better than the best before them."""
        config = self._checked.config
        patience, best = config.eval.patience, config.checkpoint.best
        if patience is None or not best.by_evaluators:
            return False
        by_step = {step: found.values() for step, found in self._awaited.results()}
        for row in Tail(self._checked.run_dir / METRICS).rows():
            if row["step"] in by_step and kind_of(row) == "validation":
                by_step[row["step"]] = {**row, **by_step[row["step"]]}
        scores = [score_of(best, by_step[step]) for step in sorted(by_step)]
        known = [score for score in scores if score is not None]
        return since_best(known, config.eval.min_delta) >= patience

    def _keep_here(self, found: EvaluationRecord) -> None:
        """Have the result of a run in a store on this node as well, for the run's report."""
        place, here = self._checked.place, self._checked.run_dir
        if here == place or found.model.step is None:
            return
        text = (self._awaited.folder(found.model.step) / EVALUATION).read_bytes()
        put(evaluation_folder(here, found.name, found.model.step) / EVALUATION, text)

    def _again(self, step: int, why: str) -> None:
        if self._tries[step] >= TRIES:
            self._give_up(step, f"its process died {TRIES} times, last: {why}")
            return
        self._tracker.note(f"the evaluation of step {step:,} died ({why}): it is tried again")

    def _give_up(self, step: int, why: str) -> None:
        self._given_up.add(step)
        self._tracker.note(
            f"step {step:,} can't be evaluated: {why}; its checkpoint is kept, and the same "
            "command tries again"
        )

    def _tell_of_waiting(self, running: _Running) -> None:
        if self._told or running.begun or self._clock() - running.asked < PATIENCE_SECONDS:
            return
        self._told = True
        asked = ", ".join(
            f"{name}: {n:g}" for name, n in resources_of(self._checked.config).items()
        )
        self._tracker.note(
            f"the evaluation of step {running.step:,} waits for a free device "
            f"({asked or 'nothing'}): workers hold all that there are; at the latest it is made "
            "when training has ended (scaling.max or eval.evaluators.resources leave room)"
        )

    def _cancel(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        with suppress(Exception):  # Ray may have ended
            ray.cancel(running.task, force=True)
            ray.wait([running.task], timeout=CANCEL_SECONDS)

    # -------------------------------------------------------------------------- the run's end

    def abandon(self) -> None:
        """End what is under way; a driver to come makes it anew."""
        self._cancel()

    def count(self) -> int:
        """Look at storage for what is due and not done; returns the number of these."""
        self.outstanding = 0 if self._config is None else len(self._due())
        return self.outstanding

    def remove_left_over(self) -> None:
        """Remove checkpoints that were kept to be evaluated, once no worker writes any more."""
        if self._config is None:
            return
        config, schedule = self._checked.config, self._checked.schedule
        pinned = steps_at(config.checkpoint.at, schedule)
        folder = self._checked.place / CHECKPOINTS
        best = BestCheckpoint(config.checkpoint.best, self._awaited)
        prune(folder, config.checkpoint.keep, pinned, self._awaited.steps, best.steps)

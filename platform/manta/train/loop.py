"""The training loop of one rank: resume, step, log, evaluate, checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

from manta.config.errors import RunError
from manta.config.metrics import EVALUATING, SAVING, VAL_LOSS_AVERAGE
from manta.config.run import RunConfig
from manta.record.run_state import read_fork
from manta.schedule import Schedule, Step
from manta.schedule.due import due, steps_at
from manta.state.checkpoint import Checkpoints
from manta.state.checkpoint_files import TrainState, name_of, read_rows
from manta.state.handover import LiveState
from manta.state.journal import Journal
from manta.state.skips import is_skipped
from manta.state.snapshot import Snapshots
from manta.state.vault import Stamp, Vault
from manta.storage.place import Place
from manta.storage.run_folder import CHECKPOINTS, LEDGER
from manta.stream.eval_sample import EvalSample
from manta.stream.ledger import Ledger
from manta.stream.plan import Corpus, RankBatch
from manta.train.awaited_evaluations import AwaitedEvaluations
from manta.train.bad_steps import Healing
from manta.train.best_checkpoint import BestCheckpoint, improves, score_of
from manta.train.engine import Engine, StepResult
from manta.train.evaluate import evaluate
from manta.train.guards import Judgements
from manta.train.log_rows import AwaitedRow, LogRows
from manta.train.pause import Agreement, Pause
from manta.train.reporter import Reporter, Source
from manta.train.throughput import Meter
from manta.train.time_spent import TimeSpent

log = logging.getLogger(__name__)
# `paused`: left at a step boundary because someone asked; the run is not at its end.
Outcome = Literal["finished", "stopped", "paused"]
# (cursor) → the batches of this rank from there to the end of the run.
StreamFactory = Callable[[int], Generator[RankBatch, None, None]]
# (where the loop passes, number of the step): for faults on purpose.
Passing = Callable[[str, int], None]


@dataclass(frozen=True)
class TrainingJob:
    """What there is to train, the same on every rank."""

    config: RunConfig
    schedule: Schedule
    corpus: Corpus
    validation: EvalSample | None
    place: Place
    """Where the run is kept, for all ranks."""
    attempt: int
    binding: str
    """Digest of the config and corpus that the run is trained by."""
    node: str
    """Where this rank runs: the one thing that ranks need not agree on."""


@dataclass(frozen=True)
class _Awaited:
    """What the device was asked for after a step, and the host has not read yet."""

    judgements: Judgements
    row: AwaitedRow | None


class Loop:
    """One rank's way through a run, from wherever its snapshots or checkpoints end."""

    def __init__(
        self,
        job: TrainingJob,
        engine: Engine,
        reporter: Reporter,
        vault: Vault | None = None,
        passing: Passing = lambda point, step: None,
        *,
        handed: LiveState | None = None,
        stands: bool = False,
    ):
        """Make ready.

        Args:
            job: the run, as this rank trains it.
            engine: model and optimizer.
            reporter: listener to the loop's progress.
            vault: store of snapshots; None for none.
            passing: called at the points where faults may be injected on purpose.
            handed: live state of the ranks that outlived the group before, whose model and
                optimizer `engine` has by now; None to load the newest saved state.
            stands: whether the next group goes on from what this one has in its processes, so
                that nothing is saved for a pause after which another group follows at once.
        """
        self._passing, self._handed, self._stands = passing, handed, stands
        self._job, self._engine, self._reporter = job, engine, reporter
        self._config, self._schedule = job.config, job.schedule
        self._ledger = Ledger(job.place / LEDGER, job.binding)
        self._journal = Journal(engine.ranks, self._ledger, job.attempt, reporter.recorded)
        awaited = AwaitedEvaluations(job.config, job.schedule, job.place)
        self._checkpoints = Checkpoints(
            job.place / CHECKPOINTS,
            engine.trained,
            binding=job.binding,
            keep=job.config.checkpoint.keep,
            pinned=steps_at(job.config.checkpoint.at, job.schedule),
            awaited=awaited.steps,
            best=BestCheckpoint(job.config.checkpoint.best, awaited).steps,
            other_base=lambda: _step_of_another_base(job.place),
            on_done=reporter.checkpoint,
            on_progress=self._saving,
        )
        every = job.config.checkpoint.snapshot_every
        self._snapshots = Snapshots(
            engine.trained, vault, job.attempt, every, lambda step: passing("snapshot", step)
        )
        self._healing = Healing(engine, self._checkpoints, self._journal, job.schedule, job.corpus)
        self._spent = TimeSpent()
        self._rows = LogRows(engine, job.corpus, job.node, self._spent)
        self._awaited: _Awaited | None = None
        self._state = TrainState()
        self._resumed = False
        # The step whose row of metrics is due and not told yet, with what came of it.
        self._untold: tuple[Step, StepResult | None] | None = None
        self._saved_step = self._reached = 0
        self._source: Source = "start"
        self._carried: list[dict[str, Any]] = []
        self._agreement = Agreement(engine.device)
        self._pause = Pause.NONE
        self._looks_each_step = engine.device.type == "cpu"  # elsewhere it would cost a wait
        # The scale of an fp16 loss, which is looked at too, is the host's only after a wait.
        self._looks_late = engine.accelerator.scaler is None

    @property
    def pause(self) -> Pause:
        """What the loop was left for, if it was paused."""
        return self._pause

    def run(self, streams: StreamFactory) -> Outcome:
        """Train to the end of the schedule, until evaluations stop improving, or to a pause.

        Raises:
            TrainingError: at a bad step, if that is what the config asks for.
            Rewind: if the run has to start again from before a bad step.
            RunError: if what training ends with can't be saved.
        """
        self._resume()
        with closing(streams(self._state.cursor)) as batches:
            if self._state.step == 0 and self._evaluates:
                self._evaluate()
            if self._source == "survivors" and self._state.step:
                self._catch_up()
            self._rows.meter = Meter()  # what came before was not training
            self._reporter.busy("beginning to train")
            for batch in self._engine.clock.waited(batches):
                if self._out_of_patience:
                    break
                self._advance(batch)
                if self._pause:
                    break
        self._leave()
        if self._state.step == self._schedule.steps:
            return "finished"
        return "stopped" if self._out_of_patience else "paused"

    def _leave(self) -> None:
        """Save what the next group, or the next run, goes on from."""
        self._take_in()
        self._saving()
        if self._stands and self._pause == Pause.REGROUP:
            self._checkpoints.problem()  # waits for it, on all ranks
            return
        kept = self._pause in (Pause.REGROUP, Pause.LEAVE) and self._snapshots.secure(
            self._healing.saved(self._state), self._journal
        )
        if kept and self._pause == Pause.REGROUP:
            self._checkpoints.wait()
            return
        self._save_if_new()
        if self._checkpoints.problem() and not kept:
            self._save_after_all()

    def _save_after_all(self) -> None:
        """Try again to save what nothing else holds.

        Raises:
            RunError: if that fails too.
        """
        self._saved_step = -1
        self._save_if_new()
        if problem := self._checkpoints.problem():
            raise RunError(
                f"the state after step {self._state.step} can't be saved in "
                f"{self._checkpoints.folder} ({problem}); the checkpoints before it are whole: "
                "free some room or mend the storage, and the same command continues the run"
            )

    # ------------------------------------------------------------------- phases

    def _resume(self) -> None:
        self._reporter.busy("loading")
        self._passing("start", 0)
        loaded = self._healing.resume(self._load, self._reporter.rewound)
        self._state = self._comparable(loaded)
        self._resumed = True
        if self._engine.ranks.first:
            self._ledger.trim(min(self._state.step, self._reached))
            for row in self._carried:
                self._journal.metric(row)
            self._reporter.resumed(self._state, self._carried, source=self._source)

    def _comparable(self, state: TrainState) -> TrainState:
        """`state`, without what was measured by other means than from now on."""
        sample, best = self._job.validation, self._config.checkpoint.best
        if sample is not None and state.eval_sample != sample.digest:
            state = replace(state, eval_sample=sample.digest, val_loss=None, measured={})
        elif state.best_by == best.metric:
            return state
        return replace(
            state, best_by=best.metric, best_meets=True, best_val_loss=None, evals_since_best=0
        )

    def _load(self, void: Callable[[TrainState], bool]) -> TrainState:
        """The newest state, from memory or from storage, that is not `void`."""
        self._reached = self._ledger.reach() if self._engine.ranks.first else 0
        if self._handed is not None:
            return self._take_over(self._handed, void)
        stamps = self._snapshots.newest()
        durable = self._checkpoints.newest_step(self._reached) if stamps else 0
        for stamp in (stamp for stamp in stamps if stamp.step >= durable):
            state = self._load_snapshot(stamp, void)
            if state is not None:
                self._saved_step = durable
                return state
        state = self._checkpoints.load_newest(self._reached)
        if state.step == 0:
            self._engine.initialise()
        self._saved_step = state.step
        self._source = "checkpoint" if state.step else "start"
        self._carried = self._rows_beside(state)
        return state

    def _take_over(self, handed: LiveState, void: Callable[[TrainState], bool]) -> TrainState:
        """Go on from what the group before had in its processes; the engine has the rest.

        Raises:
            ValueError: if that can't be gone on from.
        """
        if void(handed.state):
            raise ValueError(f"the state after step {handed.state.step} was left by a rewind")
        written = min(self._reached, handed.state.step)
        first = self._engine.ranks.first
        self._journal.prime(handed.ledger_after(written) if first else handed.ledger)
        self._saved_step = self._checkpoints.newest_step(self._reached)
        self._snapshots.go_on_since(handed.snapshot)
        self._source, self._carried = "survivors", [dict(row) for row in handed.metrics]
        return handed.state

    def _rows_beside(self, state: TrainState) -> list[dict[str, Any]]:
        """The metric rows beside a checkpoint. For the first rank."""
        if not self._engine.ranks.first:
            return []
        checkpoint = self._checkpoints.folder / name_of(state.step)
        try:
            return read_rows(checkpoint)
        except ValueError as error:  # of an older version, without a checksum
            log.warning("the rows of metrics beside checkpoint %s are lost: %s", checkpoint, error)
            return []

    def _load_snapshot(self, stamp: Stamp, void: Callable[[TrainState], bool]) -> TrainState | None:
        first = self._engine.ranks.first
        written = min(self._reached, stamp.step)
        restored = self._snapshots.restore(stamp, written, void)
        if restored is None:
            return None
        if first:
            self._journal.prime(restored.ledger_after(written))
        self._source, self._carried = "snapshot", restored.metrics
        return restored.state

    def _advance(self, batch: RankBatch) -> None:
        """One step and what is due after it."""
        step, here = batch.step, due(batch.step, self._config, self._schedule)
        result = self._trained_on(batch, logs=here.logs)
        # What the step before left to be read, now that the device has this one to do.
        self._take_in()
        if result is not None:
            self._rows.meter.add(step.tokens_after - step.tokens)
        self._state = replace(
            self._state,
            step=step.number,
            cursor=step.first_position + step.batch_size,
            tokens=step.tokens_after,
            val_loss=None,
            measured={},
        )
        self._untold = (step, result) if here.logs else None
        self._reporter.stepped(self._state)
        snaps = not here.last and self._snapshots.due(step.number)
        waits = here.evaluates or here.saves or snaps or self._must_wait(here.logs)
        if here.logs or waits:
            row = self._rows.queue(step, result, waits=waits) if here.logs else None
            self._awaited = _Awaited(self._engine.guard.judgements(), row)
        if waits:
            self._take_in()
        if here.evaluates:
            self._evaluate()
        if here.saves or (here.evaluates and self._is_best):
            self._save_if_new()
        if snaps:
            with self._spent.on(SAVING):
                self._snapshots.take(self._healing.saved(self._state), self._journal)
        self._checkpoints.poll()

    def _trained_on(self, batch: RankBatch, *, logs: bool) -> StepResult | None:
        """The step of a batch, whose row is due if it `logs`; None if it is passed over."""
        number = batch.step.number
        self._passing("step", number)
        if is_skipped(number, self._state.skips):
            self._journal.consumed(batch.step, self._engine.digest(batch))
            self._journal.skip(number)
            return None
        if self._engine.compiles_for_step(batch.step):
            self._reporter.busy("compiling")
        result = self._engine.step(batch, shares=logs)
        self._journal.consumed(batch.step, result.digest)
        self._pause = self._agreement.after(result.votes)
        return result

    def _must_wait(self, logs: bool) -> bool:
        """Whether bad steps, and the row of one that `logs`, are looked for before the next step.

        Also wherever something is kept or evaluated, which must know of every bad step before it.
        """
        first = logs and not (self._rows.begun and self._looks_late)
        return (
            first or self._looks_each_step or bool(self._pause or self._engine.guard.wants_reading)
        )

    def _take_in(self) -> None:
        """Read what the device was asked for, if anything: act on bad steps, tell the row."""
        awaited, self._awaited = self._awaited, None
        if awaited is None:
            return
        self._state = self._healing.check(self._state, awaited.judgements)
        if awaited.row is not None:
            row = self._rows.read(awaited.row)
            if is_skipped(row["step"], self._state.skips):
                row = {**_finite(row), "skipped": True}
            self._untold = None
            self._tell(row)

    def live_state(self) -> LiveState | None:
        """What this rank has of the run, for the group after this one; None if it is not whole.

        Whole after a pause, and after an exchange that failed other than in an update: what is due
        after a step can be made up for.
        """
        if not self._resumed or self._engine.updating or self._awaited is not None:
            return None
        if self._engine.guard.judgements().verdicts():
            return None  # the ranks have not agreed yet on what to do about a bad step
        untold = [] if self._untold is None else [self._rows.alone(*self._untold)]
        return LiveState(
            self._healing.saved(self._state),
            self._journal.rows(),
            [*self._journal.unsent(), *untold],
            self._snapshots.whole,
            first=self._engine.ranks.first,
        )

    @property
    def resumed(self) -> bool:
        """Whether the state is the run's, so that `live_state` alone tells what there is."""
        return self._resumed

    def abandon(self) -> Callable[[], None]:
        """Let go of the process group.

        Returns:
            Waits for what went on beside the loop, and gives back the memory of snapshots.
        """
        saved, snapshots = self._checkpoints.abandon(), self._snapshots

        def ended() -> None:
            saved()
            snapshots.release()

        return ended

    def _catch_up(self) -> None:
        """Do what was due after the last step and the group before did not get to."""
        here = due(self._schedule.step(self._state.step - 1), self._config, self._schedule)
        if here.evaluates and self._state.val_loss is None:
            self._evaluate()
        if here.saves or (here.evaluates and self._is_best):
            self._save_if_new()

    # ------------------------------------------------------ evaluation and saving

    @property
    def _evaluates(self) -> bool:
        return self._job.validation is not None

    def _evaluate(self) -> None:
        assert self._job.validation is not None
        with self._rows.meter.paused(), self._spent.on(EVALUATING):
            found = evaluate(self._engine, self._job.validation, self._evaluating)
            of_average = self._loss_of_average(self._job.validation)
        row = {**found.as_row(), **of_average}
        self._state = replace(self._state, val_loss=found.loss, measured=row)
        self._compare(row)
        self._tell({"step": self._state.step, "tokens": self._state.tokens, **row})

    def _compare(self, values: Mapping[str, float]) -> None:
        """Note whether this state is the best so far, unless evaluators beside training decide."""
        section, state = self._config.checkpoint.best, self._state
        score = None if section.by_evaluators else score_of(section, values)
        if score is None:
            return
        sign = -1.0 if section.less else 1.0
        before = state.best_val_loss
        best = None if before is None else (state.best_meets, sign * before)
        if improves(score, best, self._config.eval.min_delta):
            self._state = replace(
                state, best_val_loss=sign * score[1], best_meets=score[0], evals_since_best=0
            )
        else:
            self._state = replace(state, evals_since_best=state.evals_since_best + 1)

    @property
    def _is_best(self) -> bool:
        """Whether the state was just evaluated and is the best so far."""
        by_evaluators = self._config.checkpoint.best.by_evaluators
        return not by_evaluators and self._state.evals_since_best == 0

    def _loss_of_average(self, sample: EvalSample) -> dict[str, float]:
        """The validation loss of the average of the weights, if there is one."""
        trained = self._engine.trained
        if not trained.has_average:
            return {}
        with trained.averaged():
            return {VAL_LOSS_AVERAGE: evaluate(self._engine, sample, self._evaluating).loss}

    def _evaluating(self, share: float) -> None:
        self._reporter.busy("evaluating", share)
        self._passing("evaluation", self._state.step)

    @property
    def _out_of_patience(self) -> bool:
        patience = self._config.eval.patience
        return patience is not None and self._state.evals_since_best >= patience

    def _tell(self, row: dict[str, Any]) -> None:
        self._journal.metric(row)
        if self._engine.ranks.first:
            self._reporter.metrics(row, self._spent.seconds)

    def _saving(self) -> None:
        self._reporter.busy("saving")

    def _save_if_new(self) -> None:
        """Save the state, unless a checkpoint of this step is there or under way."""
        if self._state.step == self._saved_step:
            return
        self._saved_step = self._state.step
        with self._rows.meter.paused(), self._spent.on(SAVING):
            self._saving()
            self._healing.check_weights(self._state.step)
            self._engine.check_frozen()
            self._checkpoints.save(self._healing.saved(self._state), self._journal.seal().write)
            self._passing("checkpoint", self._state.step)


def _step_of_another_base(place: Place) -> int | None:
    """The step that a run was forked at, if it holds its frozen weights in another format since."""
    fork = read_fork(place)
    return fork.step if fork is not None and fork.held_otherwise else None


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without values that are not finite: JSON has none."""
    return {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}

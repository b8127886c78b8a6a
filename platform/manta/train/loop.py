"""The training loop of one rank: resume, step, log, evaluate, checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from manta.config.errors import TrainingError
from manta.config.run import RunConfig
from manta.schedule import Schedule, Step
from manta.stream.ledger import Ledger
from manta.stream.plan import Corpus, RankBatch, order_of
from manta.train import throughput
from manta.train.checkpoint import Checkpoints, TrainState, name_of, read_rows
from manta.train.engine import Engine, StepResult
from manta.train.evaluate import evaluate
from manta.train.journal import Journal
from manta.train.pause import Agreement, Pause
from manta.train.snapshot import Snapshots
from manta.train.throughput import Meter
from manta.train.vault import Vault

# `paused`: left at a step boundary because someone asked; the run is not at its end.
Outcome = Literal["finished", "stopped", "paused"]
Source = Literal["snapshot", "checkpoint", "start"]
# (cursor) → the batches of this rank from there to the end of the run.
StreamFactory = Callable[[int], Generator[RankBatch, None, None]]
# (where the loop passes, number of the step): for faults on purpose.
Passing = Callable[[str, int], None]


class Reporter(Protocol):
    """Where the first rank tells what happens. Calls must not block training."""

    def resumed(self, state: TrainState, rows: list[dict[str, Any]], *, source: Source) -> None:
        """Training starts from `state`; `rows` of metrics may not be on the driver's disk."""

    def recorded(self) -> int:
        """How many rows told so far, those of `resumed` among them, are on disk for good."""
        ...

    def stepped(self, state: TrainState) -> None:
        """A step is done, or at least on its way on the device."""

    def metrics(self, row: Mapping[str, Any]) -> None:
        """A row of metrics."""

    def checkpoint(self, state: TrainState, path: Path, seconds: float) -> None:
        """A checkpoint is whole, `seconds` after its save began."""


@dataclass(frozen=True)
class Job:
    """What there is to train, the same on every rank."""

    config: RunConfig
    schedule: Schedule
    corpus: Corpus
    validation: Corpus | None
    run_dir: Path
    attempt: int


class Loop:
    """One rank's way through a run, from wherever its snapshots or checkpoints end."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        reporter: Reporter,
        vault: Vault | None = None,
        passing: Passing = lambda point, step: None,
    ):
        self._passing = passing
        self._job, self._engine, self._reporter = job, engine, reporter
        self._config, self._schedule = job.config, job.schedule
        self._ledger = Ledger(job.run_dir / "ledger.parquet")
        self._journal = Journal(engine, self._ledger, job.attempt, reporter.recorded)
        self._checkpoints = Checkpoints(
            job.run_dir / "checkpoints",
            engine,
            keep=job.config.checkpoint.keep,
            on_done=reporter.checkpoint,
        )
        every = job.config.checkpoint.snapshot_every
        self._snapshots = Snapshots(
            engine, vault, job.attempt, every, lambda step: passing("snapshot", step)
        )
        self._meter = Meter()
        self._peak = throughput.peak_flops(engine.device)
        self._state = TrainState()
        self._saved_step = 0
        self._agreement = Agreement(engine.device)
        self._pause = Pause.NONE

    @property
    def pause(self) -> Pause:
        """What the loop was left for, if it was paused."""
        return self._pause

    def run(self, streams: StreamFactory) -> Outcome:
        """Train to the end of the schedule, until evaluations stop improving, or to a pause.

        Raises:
            TrainingError: on a loss or gradient that is not finite.
        """
        self._resume()
        with closing(streams(self._state.cursor)) as batches:
            if self._state.step == 0 and self._evaluates:
                self._evaluate()
            self._meter = Meter()  # what came before was not training
            for batch in batches:
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
        kept = self._pause in (Pause.REGROUP, Pause.LEAVE) and self._snapshots.secure(
            self._state, self._journal
        )
        if not (kept and self._pause == Pause.REGROUP):
            self._save_if_new()
        self._checkpoints.wait()

    # ------------------------------------------------------------------- phases

    def _resume(self) -> None:
        self._passing("start", 0)
        rows = self._resume_from_snapshot()
        source: Source = "snapshot"
        if rows is None:
            self._state = self._checkpoints.load_newest()
            self._saved_step = self._state.step
            source = "checkpoint" if self._state.step else "start"
            rows = read_rows(self._job.run_dir / "checkpoints" / name_of(self._state.step))
        if self._engine.rank == 0:
            self._ledger.trim(self._state.step)
            for row in rows:
                self._journal.metric(row)
            self._reporter.resumed(self._state, rows, source=source)

    def _resume_from_snapshot(self) -> list[dict[str, Any]] | None:
        """Go on from a snapshot, if one is as new as the newest checkpoint.

        Returns its metric rows, or None if there is no such snapshot that can be used.
        """
        stamps = self._snapshots.newest()
        durable = self._checkpoints.newest_step() if stamps else 0
        first = self._engine.rank == 0
        for stamp in (stamp for stamp in stamps if stamp.step >= durable):
            written = min(self._ledger.last_step() or 0, stamp.step) if first else 0
            restored = self._snapshots.restore(stamp, written)
            if restored is not None:
                self._state, self._saved_step = restored.state, durable
                if first:
                    self._journal.prime(restored.ledger_after(written))
                return restored.metrics
        return None

    def _advance(self, batch: RankBatch) -> None:
        """One step and what is due after it."""
        step = batch.step
        self._passing("step", step.number)
        result = self._engine.step(batch)
        self._pause = self._agreement.after(result.votes)
        self._journal.consumed(batch)
        self._meter.add(step.tokens_after - step.tokens)
        self._state = replace(
            self._state,
            step=step.number,
            cursor=step.first_position + step.batch_size,
            tokens=step.tokens_after,
            val_loss=None,
        )
        self._reporter.stepped(self._state)
        last = step.number == self._schedule.steps
        logs = last or step.step == 0 or self._due(self._config.log.every, step)
        evaluates = self._evaluates and (last or self._due(self._config.eval.every, step))
        saves = last or self._due(self._config.checkpoint.every, step)
        snaps = not last and self._snapshots.due(step.number)
        if logs or evaluates or saves or snaps or self._engine.device.type == "cpu":
            self._stop_on_bad_values()
        if logs:
            self._log(step, result)
        if evaluates:
            self._evaluate()
        if saves or (evaluates and self._state.evals_since_best == 0):
            self._save_if_new()
        if snaps:
            self._snapshots.take(self._state, self._journal)
        self._checkpoints.poll()

    def _due(self, every: int | None, step: Step) -> bool:
        """Whether a multiple of `every` tokens lies in the step. Zero: in each step."""
        if every is None:
            return False
        return every == 0 or step.tokens // every < step.tokens_after // every

    # -------------------------------------------------------------- what is due

    def _log(self, step: Step, result: StepResult) -> None:
        loss = self._engine.sum_over_ranks(result.loss_sum.clone()) / result.valid_tokens
        row: dict[str, Any] = {
            "step": step.number,
            "tokens": step.tokens_after,
            "loss": float(loss),
            "lr": step.lr,
            "batch_size": step.batch_size,
            "grad_norm": float(result.grad_norm),
            "tokens_per_s": self._meter.read(),
            "world_size": self._engine.world_size,
            "epoch": order_of(self._job.corpus).epoch(step.first_position),
        }
        self._tell({**row, **self._device_row(row["tokens_per_s"])})

    def _device_row(self, tokens_per_s: float) -> dict[str, float]:
        """What an accelerator adds to a row: memory in bytes, model FLOPs utilisation."""
        engine = self._engine
        if engine.device.type != "cuda":
            return {}
        row = {"peak_memory": float(torch.cuda.max_memory_allocated(engine.device))}
        if self._peak:
            flops = throughput.flops_per_token(
                engine.lm, engine.lm.config, self._job.corpus.seq_len
            )
            row["mfu"] = tokens_per_s * flops / (self._peak * engine.world_size)
        return row

    @property
    def _evaluates(self) -> bool:
        return self._config.eval.every is not None and self._job.validation is not None

    def _evaluate(self) -> None:
        assert self._job.validation is not None
        self._meter.pause()
        loss = evaluate(self._engine, self._job.validation, self._config.eval.tokens)
        self._meter.resume()
        best, threshold = self._state.best_val_loss, self._config.eval.min_delta
        better = best is None or loss < best - threshold
        self._state = replace(
            self._state,
            val_loss=loss,
            best_val_loss=loss if better else best,
            evals_since_best=0 if better else self._state.evals_since_best + 1,
        )
        self._tell({"step": self._state.step, "tokens": self._state.tokens, "val_loss": loss})

    @property
    def _out_of_patience(self) -> bool:
        patience = self._config.eval.patience
        return patience is not None and self._state.evals_since_best >= patience

    def _tell(self, row: dict[str, Any]) -> None:
        if self._engine.rank == 0:
            self._journal.metric(row)
            self._reporter.metrics(row)

    def _save_if_new(self) -> None:
        """Save the state, unless a checkpoint of this step is there or under way."""
        if self._state.step == self._saved_step:
            return
        self._saved_step = self._state.step
        self._meter.pause()
        self._checkpoints.save(self._state, self._journal.seal().write)
        self._passing("checkpoint", self._state.step)
        self._meter.resume()

    def _stop_on_bad_values(self) -> None:
        """Raise if a step had a loss or gradient that is not finite: it changed nothing."""
        bad = self._engine.guard.bad_step()
        if bad is None:
            return
        step = self._schedule.step(bad - 1)
        positions = (step.first_position, step.first_position + step.batch_size)
        ids = order_of(self._job.corpus).ids(*positions).tolist()
        self._checkpoints.wait()
        shown = ", ".join(map(str, ids[:32])) + (", …" if len(ids) > 32 else "")
        raise TrainingError(
            f"step {bad}: loss or gradient is not finite; the update was not applied. Positions "
            f"{positions[0]} to {positions[1] - 1}, sample ids {shown}. The last checkpoint is "
            "good: lower the learning rate or inspect these samples, then continue under a new "
            "run.name, or the same one if the cause lay outside the config"
        )

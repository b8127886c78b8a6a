"""Rows of metrics of training steps: queued behind a step on its device, read when they are there.

A row that is read in its own step makes the host wait for the device, and the device then wait for
the host's next step. Read one step later, its values have come while the device was busy.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from manta.config.metrics import LOSS, SEQ_LEN, TERM
from manta.objective.weighing import by_name, means_of, shown
from manta.parallel.host_to_device import to_device
from manta.record.alert_record import ALERT, AlertCause
from manta.schedule import Step
from manta.stream.mixed_sources import tokens_by_source
from manta.stream.plan import Corpus, order_of
from manta.train import first_pass, throughput
from manta.train.arriving import Arriving
from manta.train.engine import Engine, StepResult
from manta.train.throughput import Meter
from manta.train.time_spent import TimeSpent
from manta.train.timing import StepTimes, Stragglers, as_numbers, as_row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AwaitedRow:
    """A row of a step as far as the host knows it.

    Attributes:
        known: values that the host has without waiting for the device.
        values: values of all ranks: each rank's sums, first pass and times, then the terms'
            weights and the gradient norm; None for a step that was skipped.
    """

    known: dict[str, Any]
    values: Arriving | None


class LogRows:
    """Makes the rows of training steps, on one rank. All ranks must call together.

    Attributes:
        meter: counts the tokens of the rows so far and of the next one.
        begun: whether a row with values was queued.
    """

    def __init__(self, engine: Engine, corpus: Corpus, node: str, spent: TimeSpent | None = None):
        self._spent = spent or TimeSpent()
        self.meter, self.begun = Meter(), False
        self._engine, self._corpus, self._node = engine, corpus, node
        self._peak = throughput.peak_flops(engine.device, engine.config.train.precision)
        self._stragglers: Stragglers | None = None

    def queue(self, step: Step, result: StepResult | None, *, waits: bool) -> AwaitedRow:
        """Ask the device for what the row of a step needs.

        Args:
            step: number of the step, from 1.
            result: the step's result; None if the step was skipped.
            waits: whether the row is read at once. If not, the times in it end with the step
                before, which the device is done with or at.
        """
        known = self._known(step)
        if result is None:
            return AwaitedRow(known, None)
        self.begun = True
        times = as_numbers(self._engine.clock.read(besides_last=not waits))
        on_device = to_device(torch.tensor(times, dtype=torch.float64), self._engine.device)
        return self._awaited(known, result, self._engine.ranks.gathered(on_device))

    def alone(self, step: Step, result: StepResult | None) -> dict[str, Any]:
        """The row of a step without what only other ranks know, their times. Waits for the step."""
        known = self._known(step)
        if result is None:
            return known
        nothing = torch.zeros(
            (self._engine.ranks.world_size, len(as_numbers(StepTimes()))), dtype=torch.float64
        )
        row = self._awaited(known, result, nothing.to(self._engine.device))
        return self._whole(row, timed=False)

    def _awaited(self, known: dict[str, Any], result: StepResult, times: Tensor) -> AwaitedRow:
        """A row on its way from the device; `times` of all ranks, shape (ranks, times)."""
        assert result.shares is not None, "whoever logs a step asks for the sums of all ranks"
        table = torch.cat([result.shares.double(), times], dim=1)
        shared = torch.cat([result.weights.double(), result.grad_norm.double()[None]])
        if self._engine.device.type == "cuda":
            known["peak_memory"] = float(torch.cuda.max_memory_allocated(self._engine.device))
        return AwaitedRow(known, Arriving(torch.cat([table.flatten(), shared])))

    def _known(self, step: Step) -> dict[str, Any]:
        return {
            "step": step.number,
            "tokens": step.tokens_after,
            "lr": step.lr,
            "batch_size": step.batch_size,
            "world_size": self._engine.ranks.world_size,
            "epoch": order_of(self._corpus).epoch(step.first_position),
            **self._length(step),
            **self._by_source(step),
        }

    def _length(self, step: Step) -> dict[str, int]:
        """The length of the rows that the model saw, if that changes in the run."""
        lengths = self._engine.lengths
        return {SEQ_LEN: lengths.at(step.tokens)} if lengths.ends else {}

    def _by_source(self, step: Step) -> dict[str, int]:
        """Tokens consumed of each source of a mixture, after the step."""
        clock = self._corpus.format.clock(self._corpus.seq_len)
        end = step.first_position + step.batch_size
        return tokens_by_source(order_of(self._corpus), end, clock)

    def read(self, row: AwaitedRow) -> dict[str, Any]:
        """The whole row. Waits for its step, whose tokens `meter` has and none after them."""
        return self._whole(row, timed=True)

    def _whole(self, row: AwaitedRow, *, timed: bool) -> dict[str, Any]:
        if row.values is None:
            return row.known
        *table, grad_norm = row.values.read()
        terms = self._engine.objective.terms
        table, weights = table[: -len(terms)], table[-len(terms) :]
        # The device is done with the step: over the time until now, the rate is a true one.
        tokens_per_s = self.meter.read()
        width = len(table) // self._engine.ranks.world_size
        ranks = [table[first : first + width] for first in range(0, len(table), width)]
        own = len(terms) + first_pass.NUMBERS
        times = [StepTimes(*numbers[own:]) for numbers in ranks]
        if timed:
            self._warn_of_stragglers(times)
        self._spent.take_steps(as_row(times), max(each.steps for each in times))
        sums = [sum(numbers[term] for numbers in ranks) for term in range(len(terms))]
        means = means_of(sums, weights)
        return {
            **row.known,
            LOSS: shown(terms, means),
            **by_name(self._engine.objective, means, TERM),
            "grad_norm": grad_norm,
            **first_pass.as_row([numbers[len(terms) : own] for numbers in ranks]),
            "tokens_per_s": tokens_per_s,
            **as_row(times),
            **self._utilisation(tokens_per_s, row.known.get(SEQ_LEN, self._corpus.seq_len)),
        }

    def _warn_of_stragglers(self, ranks: list[StepTimes]) -> None:
        if self._stragglers is None:
            self._stragglers = Stragglers(self._engine.ranks.named(self._node))
        for message in self._stragglers.observe(ranks):
            if self._engine.ranks.first:
                slow = AlertCause("stragglers", message.partition(":")[0])
                log.warning(message, extra={ALERT: slow})

    def _utilisation(self, tokens_per_s: float, seq_len: int) -> dict[str, float]:
        """Model FLOPs utilisation, where the device's peak is known."""
        engine = self._engine
        config = getattr(engine.trained.lm, "config", None)
        if not self._peak or not isinstance(config, PretrainedConfig):
            return {}  # nor is it known what a model of the user's own computes
        lms = [engine.trained.lm, *([engine.frozen.lm] if engine.frozen else [])]
        flops = sum(throughput.flops_per_token(lm, lm.config, seq_len) for lm in lms)
        return {"mfu": tokens_per_s * flops / (self._peak * engine.ranks.world_size)}

"""Remarks on a plan that is valid but odd, printed before anything runs.

A remark is a pure function of a plan that returns a sentence or None. To add one, write it
below and put it into `REMARKS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from manta.config.run import EvalSection, RunConfig
from manta.config.units import format_tokens
from manta.corpus.manifest import Manifest
from manta.record import number_format
from manta.schedule import Schedule

if TYPE_CHECKING:
    from manta.stream.mixed_sources import Mixed, SeenSource

# Up to four epochs, repeated tokens are worth nearly as much as new ones (Muennighoff et al.,
# 2023).
MANY_EPOCHS = 4.0


@dataclass(frozen=True)
class PlannedRun:
    """A run before it begins: its config, its corpus, and its resolved schedule."""

    config: RunConfig
    manifest: Manifest
    schedule: Schedule

    @cached_property
    def samples(self) -> int:
        """Samples in the train split."""
        return self.manifest.tokens_of("train") // self.schedule.seq_len

    @property
    def largest_batch(self) -> int:
        """Samples of the largest step."""
        return max(plateau.batch for plateau in self.schedule.plateaus)

    @property
    def tokens(self) -> int:
        """Tokens at which the run ends; its last step may pass the horizon."""
        return self.schedule.positions * self.schedule.seq_len

    @property
    def epochs(self) -> float:
        """Epochs over the train split up to the run's horizon."""
        return self.schedule.horizon / (self.samples * self.schedule.seq_len)

    @cached_property
    def mixed(self) -> Mixed | None:
        """The mixture of the corpus's sources; None if there is none."""
        if self.config.data.mixture is None:
            return None
        from manta.stream.mixed_sources import mixed_of

        return mixed_of(self.config, self.manifest)

    @cached_property
    def seen(self) -> list[SeenSource]:
        """What the run takes of each source of its mixture; empty without one."""
        if self.mixed is None:
            return []
        from manta.stream.mixed_sources import seen

        return seen(self.mixed, self.config, self.manifest)

    @property
    def often_seen(self) -> str:
        """How often the run sees its samples, in words."""
        if not self.seen:
            return f"{self.epochs:.3g} epochs over the corpus"
        epochs = [source.epochs for source in self.seen]
        sources = f"{len(epochs)} source{'s' if len(epochs) > 1 else ''} in a mixture"
        return f"{min(epochs):.3g} to {max(epochs):.3g} epochs over {sources}"


def remarks(plan: PlannedRun) -> list[str]:
    """All remarks on a plan, one sentence each, without a line break."""
    if not plan.samples:
        return []  # an empty train split is refused elsewhere
    return [text for remark in REMARKS if (text := remark(plan)) is not None]


def many_epochs(plan: PlannedRun) -> str | None:
    """A remark if each sample is seen many times."""
    often = [source for source in plan.seen if source.epochs > MANY_EPOCHS]
    if often:
        named = ", ".join(f"{source.name} ({source.epochs:.3g})" for source in often)
        return (
            f"data.mixture: more than {MANY_EPOCHS:g} epochs of {named}: beyond that, repeated "
            "samples teach less and less; max_epochs refuses them"
        )
    if plan.seen or plan.epochs <= MANY_EPOCHS:
        return None
    size = number_format.count(plan.manifest.tokens_of("train"))
    return (
        f"schedule.horizon = {format_tokens(plan.schedule.horizon)} is {plan.epochs:.3g} epochs of "
        f"the corpus, whose train split has {size} tokens: beyond some {MANY_EPOCHS:g} epochs, "
        "repeated samples teach less and less"
    )


def batch_beyond_corpus(plan: PlannedRun) -> str | None:
    """A remark if a step has the same sample several times."""
    largest = plan.largest_batch
    if plan.seen or largest <= plan.samples:
        return None
    return (
        f"schedule.batch: a step has {largest:,} samples, but the train split has only "
        f"{plan.samples:,} at train.seq_len = {plan.schedule.seq_len}, so a step repeats samples; "
        "lower schedule.batch, or prepare a larger corpus"
    )


def one_step(plan: PlannedRun) -> str | None:
    """A remark if a single step reaches the horizon."""
    if plan.schedule.steps > 1:
        return None
    return (
        f"schedule.horizon = {format_tokens(plan.schedule.horizon)} is reached by one step of "
        f"{format_tokens(plan.tokens)} tokens (schedule.batch × train.seq_len)"
    )


def idle_workers(plan: PlannedRun) -> str | None:
    """A remark if a step has fewer samples than there are workers."""
    scaling, plateaus = plan.config.scaling, plan.schedule.plateaus
    largest = plan.largest_batch
    short = [plateau for plateau in plateaus if plateau.batch < scaling.min]
    if short:
        steps = sum(plateau.steps for plateau in short)
        which = "each step" if steps == plan.schedule.steps else f"{steps:,} steps"
        return (
            f"scaling.min = {scaling.min}, but schedule.batch is only "
            f"{min(plateau.batch for plateau in short)} in {which}: some workers get no sample "
            "and idle; lower scaling.min or raise schedule.batch"
        )
    if largest < scaling.upper:
        return (
            f"scaling.max = {scaling.upper}, but schedule.batch is at most {largest}: more workers "
            f"than that have nothing to do; lower scaling.max to {largest}"
        )
    return None


def idle_by_micro_batches(plan: PlannedRun) -> str | None:
    """A remark if workers get no micro-batch, where these are not cut further."""
    train, upper = plan.config.train, plan.config.scaling.upper
    largest = plan.largest_batch
    count = -(-largest // train.micro_batch)
    if train.reproducible is None or count >= min(upper, largest):
        return None
    return (
        f"train.reproducible cuts a step of {largest} samples into {count} micro-batches of "
        f"train.micro_batch = {train.micro_batch}: of {upper} workers only {count} have something "
        f"to do; set train.micro_batch to {max(1, largest // upper)} or less"
    )


def evaluated_tokens(plan: PlannedRun) -> str | None:
    """A remark if evaluations read fewer or more tokens than the config asks for."""
    section, seq_len = plan.config.eval, plan.schedule.seq_len
    if (section.every is None and not section.at) or section.tokens == EvalSection().tokens:
        return None  # the default is an upper bound that small corpora need not reach
    asked = f"eval.tokens = {format_tokens(section.tokens)}"
    there = plan.manifest.tokens_of("validation")
    if section.tokens < seq_len:
        return f"{asked} is less than one sample of train.seq_len = {seq_len}: one sample is read"
    if there < seq_len or section.tokens // seq_len <= there // seq_len:
        return None
    return (
        f"{asked}, but the validation split has {number_format.count(there)} tokens: an evaluation "
        f"reads all of it, {there // seq_len:,} samples of {seq_len}"
    )


def never_due(plan: PlannedRun) -> str | None:
    """A remark on intervals longer than the run and token counts beyond its end."""
    config = plan.config
    given = {
        "eval.every": [config.eval.every or 0],
        "eval.at": config.eval.at,
        "checkpoint.every": [config.checkpoint.every or 0],
        "checkpoint.at": config.checkpoint.at,
        "log.every": [config.log.every],
    }
    late = [
        f"{key} = {format_tokens(count)}"
        for key, counts in given.items()
        for count in counts
        if count > plan.tokens
    ]
    if not late:
        return None
    return f"never reached, because the run ends at {format_tokens(plan.tokens)}: {', '.join(late)}"


REMARKS = (
    many_epochs,
    batch_beyond_corpus,
    one_step,
    idle_workers,
    idle_by_micro_batches,
    evaluated_tokens,
    never_due,
)

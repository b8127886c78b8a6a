"""The plan of a run, printed before anything is trained: what it takes, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from manta.config.run import RunConfig
from manta.config.units import format_tokens
from manta.corpus.length_cost import cost_lines
from manta.model.trial_result import Tried
from manta.record import number_format
from manta.record.frontier import Speeds, measured_speeds, options
from manta.record.run_state import RunState
from manta.schedule import Schedule
from manta.schedule.share_lines import share_steps
from manta.schedule.shares import Mixture
from manta.show.console.header import evaluation_lines, length_lines
from manta.show.console.remarks import PlannedRun, remarks
from manta.state.state_size import state_bytes
from manta.stream.mixed_sources import SeenSource

Row = tuple[str, str]


def plan_rows(
    plan: PlannedRun, place: str, tried: Tried, eval_samples: int, done: RunState | None
) -> Iterator[Row]:
    """Names and values of what is known of a run before it starts.

    Args:
        plan: the planned run.
        place: the run's folder or URL.
        tried: facts about the run's model.
        eval_samples: number of samples that each evaluation reads; 0 without evaluations.
        done: the state of a run that is continued; None for a new one.
    """
    yield "Run", place
    yield from _corpus(plan)
    yield "Model", _model(plan.config, tried)
    if tried.quantized:
        yield "Frozen", _frozen(plan.config, tried)
    yield from _steps(plan)
    for line in length_lines(plan):
        yield "Lengths", line
    for line in evaluation_lines(plan, eval_samples):
        yield "Evaluation", line
    yield "Checkpoints", _checkpoints(plan, tried)
    scaling = plan.config.scaling
    few, many = scaling.min, scaling.upper
    yield "Workers", f"{few}" if few == many else f"{few} to {many}"
    yield from cost_rows(plan.config, plan.tokens)
    yield from frontier_rows(plan.config, plan.tokens, done)
    for remark in (*remarks(plan), *tried.remarks):
        yield "Note", remark


def cost_rows(config: RunConfig, tokens: int) -> Iterator[Row]:
    """Device-hours and money, if the config says how fast a worker is."""
    speed = config.scaling.throughput
    if speed is None:
        yield "Device-hours", "unknown: set scaling.throughput (tokens/s of a worker)"
        return
    hours = tokens / speed / 3600 * config.scaling.devices_per_worker
    yield (
        "Device-hours",
        f"{hours:.3g} at {number_format.count(speed)} tokens/s a worker, without starts and "
        "evaluations",
    )
    if (price := config.cost.usual_price) is not None:
        yield "Money", number_format.money(hours * price)


def frontier_rows(config: RunConfig, tokens: int, done: RunState | None) -> Iterator[Row]:
    """Hours, and money, with some numbers of workers, by speeds measured or configured."""
    low, high = config.scaling.min, config.scaling.upper
    speeds = measured_speeds(done) if done is not None else {}
    if not speeds and config.scaling.throughput is not None:
        speeds = {1: config.scaling.throughput}
    if not speeds or low == high:
        return
    price = config.cost.highest_price * config.scaling.devices_per_worker
    left = tokens - (done.totals.tokens if done is not None else 0)
    sizes = sorted({low, high, *np.unique(np.geomspace(low, high, 6).round().astype(int)).tolist()})
    found = options(sizes, left, Speeds(speeds), lambda size: size * price)
    for index, one in enumerate(found):
        money = f", {number_format.money(one.money)}" if config.cost.has_price else ""
        name = "Hours, money" if config.cost.has_price else "Hours"
        yield name if index == 0 else "", f"{one.workers:,} workers: {one.hours:.3g} h{money}"


def _corpus(plan: PlannedRun) -> Iterator[Row]:
    manifest, seq_len = plan.manifest, plan.schedule.seq_len
    counts = manifest.counts["train"].values()
    held = sum(one.tokens for one in counts)
    shape = f"{plan.samples:,} samples of {seq_len:,} tokens, {number_format.count(held)} tokens"
    yield "Corpus", f"{plan.config.corpus}: {shape} in its train split"
    supervised = [one.supervised for one in counts if one.supervised is not None]
    if supervised:
        share = sum(supervised) / max(1, sum(one.tokens for one in counts))
        records = sum(one.documents for one in counts)
        yield (
            "Supervised",
            f"{number_format.count(sum(supervised))} tokens, {share:.0%} of all, in {records:,} "
            f"{'pairs' if manifest.sample == 'pairs' else 'conversations'}",
        )
    left_out = {reason: count for reason, count in manifest.dropped.items() if count}
    if left_out:
        said = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        yield "Left out", f"{said}, when the corpus was prepared"
    for line in cost_lines(manifest.length_cost, manifest.documents_are):
        yield "Too long", line


def _model(config: RunConfig, tried: Tried) -> str:
    name = config.model.type or config.model.pretrained
    total, trained = tried.weights, tried.trained
    which = "all trained" if trained == total else f"{number_format.count(trained)} trained"
    return f"{name}: {number_format.count(total)} parameters, {which}"


def _frozen(config: RunConfig, tried: Tried) -> str:
    """What the frozen weights take on each device, and what they would in float32."""
    frozen = tried.weights - tried.trained
    return (
        f"{number_format.count(tried.quantized)} of {number_format.count(frozen)} weights in "
        f"{config.model.quantize}: {number_format.memory(tried.frozen_bytes)}, in place of "
        f"{number_format.memory(4 * frozen)} in float32"
    )


def _steps(plan: PlannedRun) -> Iterator[Row]:
    batches = [plateau.batch for plateau in plan.schedule.plateaus]
    least, most = min(batches), max(batches)
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    yield "Steps", f"{plan.schedule.steps:,}, of {each} samples"
    tokens = number_format.count(plan.tokens)
    if plan.mixed is None:
        yield "Tokens", f"{tokens}, {plan.epochs:.3g} epochs of the train split"
        return
    yield "Tokens", tokens
    for source in plan.seen:
        yield f"Source {source.name}", _source(plan.mixed.mixture, source, plan.schedule)


def _source(mixture: Mixture, source: SeenSource, schedule: Schedule) -> str:
    """The shares of a source, one after the other, and how often the run sees it."""
    shares = " → ".join(share_steps(mixture, source.name, schedule.positions))
    tokens = number_format.count(source.taken * schedule.seq_len)
    return (
        f"{shares} of the samples: {tokens} tokens, "
        f"{source.epochs:.3g} epochs of {source.samples:,} samples"
    )


def _checkpoints(plan: PlannedRun, tried: Tried) -> str:
    section = plan.config.checkpoint
    saved = tried.trained if plan.config.model.freezes else tried.weights
    size = number_format.memory(
        state_bytes(saved, tried.trained, plan.config.optimizer.numbers_kept)
    )
    when = f"every {format_tokens(section.every)} tokens and " if section.every else ""
    return f"{when}at the end, of {size} each; the newest {section.keep} are kept, and the best"

"""Checks, by recomputation, that a run was trained on what its config and corpus say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manta.config import RunConfig, load
from manta.config.errors import RunError
from manta.corpus.manifest import Manifest
from manta.record import number_format
from manta.record.identity import bindings_of, free_keys
from manta.record.row_chain import Kind
from manta.record.run_state import RunState, read_state
from manta.record.verify_metrics import MOST_SHOWN, Due, Plan, check_rows
from manta.schedule import Schedule
from manta.schedule.lengths import Lengths
from manta.storage.exclusive import is_free
from manta.storage.place import Place
from manta.storage.run_folder import CONFIG, LEDGER, METRICS, RUN
from manta.stream.ledger import Ledger
from manta.stream.mixed_sources import SeenSource, mixed_of
from manta.stream.own_format import format_of
from manta.stream.plan import open_corpus, order_of
from manta.stream.verify_chain import Claims
from manta.stream.verify_ledger import Consumed, verify_ledger


@dataclass(frozen=True)
class Saved:
    """What a run's complete checkpoints record of the run.

    Attributes:
        marks: file in a checkpoint → the step and the ledger's digest that it records.
        rows: the metric rows that the checkpoints carry.
        unchecked: one line for each thing in the checkpoints that could not be compared.
    """

    marks: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    unchecked: Sequence[str] = ()


NOTHING_SAVED = Saved(unchecked=("checkpoints: not read",))


@dataclass(frozen=True)
class Verified:
    """The result for a run that was found right.

    Attributes:
        state: the run's record.
        consumed: samples that the run consumed, by its ledger.
        shards: number of token shards whose checksums were compared; None if they were left out.
        sources: the sources of the run's mixture, with the samples taken of each by the ledger.
        unchecked: one line for each claim of the run that could not be compared with anything.
    """

    state: RunState
    consumed: Consumed
    shards: int | None
    unchecked: tuple[str, ...] = ()
    sources: tuple[SeenSource, ...] = ()

    def lines(self) -> list[str]:
        """The run in a few lines, for people."""
        seen, state = self.consumed, self.state
        skipped = f"{len(seen.skipped)} ({_shown(seen.skipped)})" if seen.skipped else "none"
        sizes = " → ".join(map(str, seen.world_sizes)) or "none"
        return [
            f"run {state.name} ({state.status}): the ledger is what config and manifest give",
            f"  {seen.steps:,} of {state.total_steps:,} steps, {seen.samples:,} samples, "
            f"{number_format.count(seen.tokens)} tokens",
            f"  world sizes {sizes}; {seen.attempts} attempt{'' if seen.attempts == 1 else 's'}",
            f"  skipped steps: {skipped}",
            *(self._source(each) for each in self.sources),
            "  token shards: "
            + ("not read" if self.shards is None else f"{self.shards}, all checksums right"),
            *(f"  not proven: {what}" for what in self.unchecked),
        ]

    def _source(self, source: SeenSource) -> str:
        share = source.taken / max(1, self.consumed.samples)
        return (
            f"  source {source.name}: {source.taken:,} samples, {share:.2%}, "
            f"{source.epochs:.3g} epochs"
        )


def verify(run_dir: Place, *, shards: bool = True, saved: Saved = NOTHING_SAVED) -> Verified:
    """Recompute a run's ledger from its config and its corpus's manifest, and compare.

    Args:
        run_dir: the run's folder, or its URL in a store.
        shards: whether to read the corpus's token shards too, and compare their checksums.
        saved: states that the run's checkpoints record.

    Raises:
        RunError: naming the first step that differs, or another mismatch.
        CorpusError: naming the shards that are missing or damaged.
    """
    state = read_state(run_dir)
    config = load(run_dir / CONFIG, RunConfig)
    manifest = Manifest.read(config.corpus)
    if manifest.fingerprint != state.corpus_fingerprint:
        raise RunError(
            f"{run_dir / RUN}: the run was trained on the corpus {state.corpus_fingerprint[:12]}…, "
            f"but {config.corpus} has the fingerprint {manifest.fingerprint[:12]}…: set 'corpus' "
            f"in {run_dir / CONFIG} to the one it was trained on"
        )
    seq_len = config.train.seq_len
    schedule = Schedule.resolve(config.schedule, seq_len)
    form = format_of(config, manifest)
    mixed = mixed_of(config, manifest)
    corpus = open_corpus(
        config.corpus, manifest, "train", seq_len, config.run.seed, form, mixed=mixed
    )
    ledger = Ledger(run_dir / LEDGER)
    fork = state.fork.step if state.fork else 0
    claims = Claims({state.binding, state.once_bound} - {""}, fork, saved.marks)
    consumed = verify_ledger(ledger, schedule, order_of(corpus), claims)
    # Compare digests after the ledger: the ledger names the step at which a changed config shows.
    _check_binding(run_dir, state, config)
    at_work = state.status == "running" and not is_free(run_dir)
    if not at_work:
        _check_end(ledger, state, schedule, consumed, saved)
    # A driver that is at work may not have written its last rows yet.
    steps = range(fork + 1, (0 if at_work else consumed.steps) + 1)
    lengths = Lengths.resolve(config.train, config.schedule.horizon)
    plan = Plan(schedule, order_of(corpus), form.clock(seq_len), lengths)
    lost = check_rows(run_dir, plan, fork, lambda: Due(config, schedule, steps, saved.rows))
    if shards:
        from manta.corpus.inspect import check_shards  # slow to import, as it imports tokenizers

        check_shards(config.corpus, manifest)
    return Verified(
        state,
        consumed,
        len(manifest.shards) if shards else None,
        tuple(_unchecked(state, consumed, lost, saved, at_work)),
        tuple(
            SeenSource(span.name, span.samples, consumed.by_source[span.name])
            for span in (mixed.spans if mixed else ())
        ),
    )


def _check_binding(run_dir: Place, state: RunState, config: RunConfig) -> None:
    if state.binding and state.binding not in bindings_of(config, state.corpus_fingerprint):
        raise RunError(
            f"{run_dir / CONFIG}: not the config that the run was trained with: its digest is not "
            f"that in {RUN}, so it was changed afterwards; restore it from a copy"
        )


def _unchecked(
    state: RunState,
    consumed: Consumed,
    lost: Mapping[Kind, list[int]],
    saved: Saved,
    at_work: bool,
) -> Iterator[str]:
    """Claims of the run that this check can't prove."""
    if not state.binding:
        yield (
            f"{CONFIG}, except sample order and batch sizes: an older version recorded no digest "
            "of it"
        )
    if consumed.unsealed:
        yield (
            f"world sizes of steps 1 to {consumed.unsealed:,}: an older version recorded no digests"
        )
    yield from saved.unchecked
    if state.history.unproven:
        yield (
            f"{METRICS}: rows up to step {state.history.unproven:,}: the file was changed, and "
            "its rows were accepted as they were found"
        )
    if state.fork is not None:
        yield f"the config of steps 1 to {state.fork.step:,}, which {state.fork.run} trained"
    if at_work:
        yield "the end of ledger and rows: a driver is at work on the run"
    for kind, steps in lost.items():
        if steps:
            yield f"{METRICS}: {kind} rows of steps {_shown(steps)} are missing, by the config"
    yield "measured values: losses, times, costs; and keys that may change: " + ", ".join(
        free_keys()
    )


def _shown(numbers: Sequence[int]) -> str:
    """A list of numbers as text; a long one is cut after the first numbers."""
    more = ", …" if len(numbers) > MOST_SHOWN else ""
    return f"{', '.join(map(str, numbers[:MOST_SHOWN]))}{more}"


def _check_end(
    ledger: Ledger, state: RunState, schedule: Schedule, consumed: Consumed, saved: Saved
) -> None:
    """Refuse a ledger that ends before a checkpoint, as the ledger is written first."""
    newest = max((step for step, _ in saved.marks.values()), default=0)
    checkpoint = max(state.checkpoint.step if state.checkpoint else 0, newest)
    due, why = checkpoint, f"the run has a checkpoint of step {checkpoint}"
    if state.status == "finished":
        due = schedule.steps
        why = f"the run is finished and its schedule has {due} steps"
    last = consumed.steps
    if last < due:
        raise RunError(
            f"{ledger.folder}: step {last + 1} is missing: the ledger ends with step {last}, but "
            f"{why}; restore its last parts from a copy, or continue the run with `manta train` "
            "from a checkpoint that the ledger reaches"
        )
    if state.status in ("finished", "stopped") and state.ledger_digest is not None:
        claimed = (state.ledger_digest, state.results.skipped_steps)
        if claimed != (ledger.digest(), consumed.skipped):
            raise RunError(
                f"{ledger.folder}: its digest or its skipped steps are not those in {RUN}: one of "
                "the two was changed afterwards; restore both from a copy"
            )

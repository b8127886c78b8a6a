"""Was a run trained on what its config and corpus say? All of it is recomputed."""

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
from manta.record.verify_metrics import MOST_SHOWN, Due, check_rows
from manta.schedule import Schedule
from manta.storage.exclusive import is_free
from manta.storage.place import Place
from manta.storage.run_folder import CONFIG, LEDGER, METRICS, RUN
from manta.stream.ledger import Ledger
from manta.stream.plan import open_corpus, order_of
from manta.stream.verify_chain import Claims
from manta.stream.verify_ledger import Consumed, verify_ledger


@dataclass(frozen=True)
class Saved:
    """What a run's checkpoints, found whole, say of it.

    Attributes:
        marks: the step and the ledger's digest there, by the file that says so.
        rows: of metrics that they carry.
        unchecked: what of them could not be compared, in a line each.
    """

    marks: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    unchecked: Sequence[str] = ()


NOTHING_SAVED = Saved(unchecked=("checkpoints: not looked at",))


@dataclass(frozen=True)
class Verified:
    """A run that was found right.

    Attributes:
        state: its record.
        consumed: what its ledger says.
        shards: token shards whose checksums were compared; None if they were left out.
        unchecked: what the run claims and could not be compared with anything, in a line each.
    """

    state: RunState
    consumed: Consumed
    shards: int | None
    unchecked: tuple[str, ...] = ()

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
            "  token shards: "
            + ("not read" if self.shards is None else f"{self.shards}, all checksums right"),
            *(f"  not proven: {what}" for what in self.unchecked),
        ]


def verify(run_dir: Place, *, shards: bool = True, saved: Saved = NOTHING_SAVED) -> Verified:
    """Recompute a run's ledger from its config and its corpus's manifest, and compare.

    Args:
        run_dir: the run's folder, or its place in a store.
        shards: read the corpus's token shards too, and compare their checksums.
        saved: what its checkpoints say.

    Raises:
        RunError: naming the first step that differs, or what else does not fit.
        CorpusError: naming the shards that are missing or damaged.
    """
    state = read_state(run_dir)
    config = load(run_dir / CONFIG, RunConfig)
    manifest = Manifest.read(config.corpus)
    if manifest.fingerprint != state.corpus_fingerprint:
        raise RunError(
            f"{run_dir / RUN}: the run was trained on the corpus {state.corpus_fingerprint[:12]}…, "
            f"but {config.corpus} has the fingerprint {manifest.fingerprint[:12]}…: let 'corpus' "
            f"in {run_dir / CONFIG} point at the one it was trained on"
        )
    seq_len = config.train.seq_len
    schedule = Schedule.resolve(config.schedule, seq_len)
    corpus = open_corpus(config.corpus, manifest, "train", seq_len, config.run.seed)
    ledger = Ledger(run_dir / LEDGER)
    fork = state.fork.step if state.fork else 0
    claims = Claims({state.binding, state.once_bound} - {""}, fork, saved.marks)
    consumed = verify_ledger(ledger, schedule, order_of(corpus), claims)
    # After the ledger, which names the step where a changed config first shows.
    _check_binding(run_dir, state, config)
    at_work = state.status == "running" and not is_free(run_dir)
    if not at_work:
        _check_end(ledger, state, schedule, consumed, saved)
    # While a driver is at work, its last rows may not be there yet.
    steps = range(fork + 1, (0 if at_work else consumed.steps) + 1)
    lost = check_rows(run_dir, schedule, fork, lambda: Due(config, schedule, steps, saved.rows))
    if shards:
        from manta.corpus.inspect import check_shards  # heavy: it knows tokenizers

        check_shards(config.corpus, manifest)
    return Verified(
        state,
        consumed,
        len(manifest.shards) if shards else None,
        tuple(_unchecked(state, consumed, lost, saved, at_work)),
    )


def _check_binding(run_dir: Place, state: RunState, config: RunConfig) -> None:
    if state.binding and state.binding not in bindings_of(config, state.corpus_fingerprint):
        raise RunError(
            f"{run_dir / CONFIG}: not the config that the run was trained by, of which {RUN} has "
            "the digest: it was changed afterwards. Put it back from a copy"
        )


def _unchecked(
    state: RunState,
    consumed: Consumed,
    lost: Mapping[Kind, list[int]],
    saved: Saved,
    at_work: bool,
) -> Iterator[str]:
    """What the run claims and nothing here can prove."""
    if not state.binding:
        yield f"{CONFIG}, beyond order and batch sizes: an older version kept no digest of it"
    if consumed.unsealed:
        yield f"world sizes of steps 1 to {consumed.unsealed:,}: an older version kept no digests"
    yield from saved.unchecked
    if state.history.unproven:
        yield (
            f"{METRICS}: rows up to step {state.history.unproven:,}: the file was changed, and was "
            "taken as it was found"
        )
    if state.fork is not None:
        yield f"the config of steps 1 to {state.fork.step:,}, which {state.fork.run} trained"
    if at_work:
        yield "the end of ledger and rows: a driver is at work on the run"
    for kind, steps in lost.items():
        if steps:
            yield f"{METRICS}: {kind} rows of steps {_shown(steps)} are missing, by today's config"
    yield "measured figures: losses, times, costs; and keys that may change: " + ", ".join(
        free_keys()
    )


def _shown(numbers: Sequence[int]) -> str:
    """Some numbers, the first of them spelled out."""
    more = ", …" if len(numbers) > MOST_SHOWN else ""
    return f"{', '.join(map(str, numbers[:MOST_SHOWN]))}{more}"


def _check_end(
    ledger: Ledger, state: RunState, schedule: Schedule, consumed: Consumed, saved: Saved
) -> None:
    """A ledger that ends early has lost rows: it is written before each checkpoint."""
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
            f"{why}; put its last parts back from a copy, or give the command that trains the "
            "run: it goes on from a checkpoint that the ledger reaches"
        )
    if state.status in ("finished", "stopped") and state.ledger_digest is not None:
        claimed = (state.ledger_digest, state.results.skipped_steps)
        if claimed != (ledger.digest(), consumed.skipped):
            raise RunError(
                f"{ledger.folder}: its digest or its skipped steps are not those in {RUN}: one of "
                "the two was changed afterwards; put both back from a copy"
            )

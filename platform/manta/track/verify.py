"""Was a run trained on what its config and corpus say? All of it is recomputed."""

from __future__ import annotations

from dataclasses import dataclass

from manta.config import RunConfig, load
from manta.config.errors import RunError
from manta.corpus.manifest import Manifest
from manta.schedule import Schedule
from manta.storage.place import Place
from manta.stream.ledger import Ledger
from manta.stream.plan import open_corpus, order_of
from manta.stream.verify import Consumed, verify_ledger
from manta.track import figures
from manta.track.opening import CONFIG
from manta.track.state import RUN, RunState, read_state

LEDGER = "ledger.parquet"
MOST_SHOWN = 8


@dataclass(frozen=True)
class Verified:
    """A run that was found right.

    Attributes:
        state: its record.
        consumed: what its ledger says.
        shards: token shards whose checksums were compared; None if they were left out.
    """

    state: RunState
    consumed: Consumed
    shards: int | None

    def lines(self) -> list[str]:
        """The run in a few lines, for people."""
        seen, state = self.consumed, self.state
        sizes = " → ".join(map(str, seen.world_sizes)) or "none"
        shown = ", ".join(map(str, seen.skipped[:MOST_SHOWN]))
        more = ", …" if len(seen.skipped) > MOST_SHOWN else ""
        return [
            f"run {state.name} ({state.status}): the ledger is what config and manifest give",
            f"  {seen.steps:,} of {state.total_steps:,} steps, {seen.samples:,} samples, "
            f"{figures.count(seen.tokens)} tokens",
            f"  world sizes {sizes}; {seen.attempts} attempt{'' if seen.attempts == 1 else 's'}",
            f"  skipped steps: {f'{len(seen.skipped)} ({shown}{more})' if shown else 'none'}",
            "  token shards: "
            + ("not read" if self.shards is None else f"{self.shards}, all checksums right"),
        ]


def verify(run_dir: Place, *, shards: bool = True) -> Verified:
    """Recompute a run's ledger from its config and its corpus's manifest, and compare.

    Args:
        run_dir: the run's folder, or its place in a store.
        shards: read the corpus's token shards too, and compare their checksums.

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
    consumed = verify_ledger(ledger, schedule, order_of(corpus))
    _check_end(ledger.folder, state, schedule, consumed.steps)
    if shards:
        from manta.corpus.inspect import check_shards  # heavy: it knows tokenizers

        check_shards(config.corpus, manifest)
    return Verified(state, consumed, len(manifest.shards) if shards else None)


def _check_end(folder: Place, state: RunState, schedule: Schedule, last: int) -> None:
    """A ledger that ends early has lost rows: it is written before each checkpoint."""
    checkpoint = state.checkpoint.step if state.checkpoint else 0
    due, why = checkpoint, f"{RUN} has a checkpoint of step {checkpoint}"
    if state.status == "finished":
        due = schedule.steps
        why = f"the run is finished and its schedule has {due} steps"
    elif state.status == "running":
        return  # a restart may have gone back to an older checkpoint a moment ago
    if last < due:
        raise RunError(
            f"{folder}: step {last + 1} is missing: the ledger ends with step {last}, but {why}; "
            "put its last parts back from a copy, or give the command that trains the run: it "
            "goes on from a checkpoint that the ledger reaches"
        )

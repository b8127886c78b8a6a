"""Which runs, checkpoints and models have seen a document, and at which step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manta.config import RunConfig
from manta.config.credentials import without_credentials
from manta.config.errors import CorpusError
from manta.config.model_names import named_models
from manta.corpus.lineage.document_places import DocumentPlace, places_of
from manta.corpus.manifest import Manifest
from manta.record.model_origin import ModelOrigin
from manta.record.run_config import recorded_config
from manta.record.run_state import RunState, read_state
from manta.show.lineage.file_uses import exports_of, runs_in
from manta.state.checkpoint_files import read_state as read_checkpoint
from manta.state.checkpoint_files import whole
from manta.storage.place import Place, place_of
from manta.storage.run_folder import CHECKPOINTS, EXPORTS, LEDGER
from manta.stream.ledger import Ledger
from manta.stream.mixed_sources import mixed_of
from manta.stream.own_format import format_of
from manta.stream.plan import open_corpus, order_of

CHUNK = 2**20  # positions that are looked at at once
SHOWN_STEPS = 8


@dataclass
class RunSeen:
    """What a run has seen of some documents.

    Attributes:
        run: folder or URL of the run.
        name: name of the run.
        last_step: last step in the run's ledger.
        steps: steps whose batch had a document, by the document's id; none of those not seen.
        skipped: steps among these whose update was not applied.
        checkpoints: names of the run's checkpoints that have seen one of the documents.
        models: folders of exported models that have seen one of the documents.
        began_with: the model or run that the run began with, if that has seen one of them.
        unknown: reason for which nothing can be told of the run; "" otherwise.
    """

    run: str
    name: str
    last_step: int = 0
    steps: dict[str, list[int]] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    began_with: str = ""
    unknown: str = ""

    @property
    def first(self) -> int | None:
        """The first step after which the run's weights may depend on a document; None: never."""
        if self.began_with:
            return 0
        applied = [s for steps in self.steps.values() for s in steps if s not in self.skipped]
        return min(applied, default=None)


def seen_in(storage: str, documents: Sequence[str]) -> list[RunSeen]:
    """What each run below a folder has seen of some documents, by its ledger and sample order.

    It takes as long as to compute each run's sample order once, as `manta verify` does.

    Args:
        storage: folder or URL with runs.
        documents: whole ids of documents, or beginnings of ids.

    Raises:
        RunError: if there is no run.
    """
    corpora = _Corpora(documents)
    found: dict[str, RunSeen] = {}
    models: dict[str, list[str]] = {}
    for run in runs_in(storage):
        state, config = read_state(run), recorded_config(run)
        found[str(run)] = one = RunSeen(str(run), state.name)
        models[str(run)] = [named.name for named in named_models(config)]
        try:
            _look(run, state, config, corpora, one)
        except CorpusError as error:
            one.unknown = str(error).partition(";")[0]
    _inherit(found, models)
    for one in found.values():
        _products(one)
    return list(found.values())


class _Corpora:
    """The corpora of runs, each searched once for the documents."""

    def __init__(self, documents: Sequence[str]):
        self._documents = documents
        self._found: dict[str, tuple[Manifest, list[DocumentPlace]]] = {}

    def search(self, folder: str, fingerprint: str) -> tuple[Manifest, list[DocumentPlace]]:
        """Manifest of a run's corpus, and the documents' places in its training split."""
        if fingerprint not in self._found:
            manifest = Manifest.read(folder)
            if manifest.fingerprint != fingerprint:
                shown = without_credentials(folder)
                raise CorpusError(f"{shown}: another corpus is there now")
            places = places_of(folder, manifest, self._documents)
            trained = [place for place in places if place.split == "train"]
            self._found[fingerprint] = manifest, trained
        return self._found[fingerprint]


def _look(run: Place, state: RunState, config: RunConfig, corpora: _Corpora, one: RunSeen) -> None:
    """Fill in the steps at which a run has seen the documents."""
    manifest, places = corpora.search(config.corpus, state.corpus_fingerprint)
    table = Ledger(run / LEDGER).read()
    if not table.num_rows:
        return
    steps, ends = table["step"].to_numpy(), table["last_position"].to_numpy()
    one.last_step = int(steps[-1])
    length, form = config.train.seq_len, format_of(config, manifest)
    corpus = open_corpus(
        config.corpus,
        manifest,
        "train",
        length,
        config.run.seed,
        form,
        mixed=mixed_of(config, manifest),
    )
    of_sample: dict[int, list[str]] = {}
    for place in places:
        for sample in place.samples(manifest.sample, length):
            of_sample.setdefault(sample, []).append(place.doc_id)
    at = dict[str, set[int]]()
    for position, sample in _positions(order_of(corpus), of_sample, int(ends[-1]) + 1):
        step = int(steps[np.searchsorted(ends, position)])
        for doc_id in of_sample[sample]:
            at.setdefault(doc_id, set()).add(step)
    one.steps = {doc_id: sorted(found) for doc_id, found in at.items()}
    skipped = set(steps[table["skipped"].to_numpy()].tolist())
    one.skipped = sorted(skipped & {step for found in at.values() for step in found})


def _positions(order: Any, samples: dict[int, list[str]], end: int) -> Iterator[tuple[int, int]]:
    """The positions before `end` that have one of some samples, each with the sample."""
    wanted: NDArray[np.int64] = np.array(sorted(samples), np.int64)
    for begin in range(0, end if len(wanted) else 0, CHUNK):
        ids = order.ids(begin, min(begin + CHUNK, end))
        for index in np.flatnonzero(np.isin(ids, wanted)).tolist():
            yield begin + index, int(ids[index])


def _inherit(found: dict[str, RunSeen], models: dict[str, list[str]]) -> None:
    """Mark the runs that began with, or learned from, a model that has seen a document."""
    changed = True
    while changed:
        changed = False
        for run, names in models.items():
            for name in names if not found[run].began_with else ():
                origin = _run_of_model(name)
                above = found.get(origin[0]) if origin else None
                if above is None or above.first is None or origin is None:
                    continue
                if above.first <= origin[1]:
                    found[run].began_with, changed = name, True


def _run_of_model(name: str) -> tuple[str, int] | None:
    """The run that a model's folder is of, and the step; None if it is of none."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    if (origin := ModelOrigin.read(folder)) is not None:
        return origin.folder, origin.step
    if folder.parent.name == EXPORTS:
        return str(folder.parents[1]), int(folder.name.rpartition("-")[2])
    return None


def _products(one: RunSeen) -> None:
    """Fill in the checkpoints and models of a run that have seen a document."""
    if one.first is None:
        return
    run = place_of(one.run)
    for checkpoint in whole(run / CHECKPOINTS):
        if read_checkpoint(checkpoint).step >= one.first:
            one.checkpoints.append(checkpoint.name)
    for name, step in exports_of(run):
        if step is None:
            origin = ModelOrigin.read(place_of(name))
            step = origin.step if origin else None
        if step is None or step >= one.first:
            one.models.append(name)


def seen_lines(found: Sequence[RunSeen]) -> list[str]:
    """What runs have seen, for people."""
    lines = []
    for one in found:
        if one.unknown:
            lines.append(f"run {one.run}: can't be told: {one.unknown}")
        elif one.steps or one.began_with:
            lines += _run_lines(one)
    clean = sum(not (one.steps or one.began_with or one.unknown) for one in found)
    return [*lines, f"{clean:,} of {len(found):,} runs have not seen them"]


def _run_lines(one: RunSeen) -> Iterator[str]:
    yield f"run {one.run} has seen them"
    if one.began_with:
        yield f"  it began with {one.began_with}, which has"
    for doc_id, steps in one.steps.items():
        shown = ", ".join(f"{step:,}" for step in steps[:SHOWN_STEPS])
        more = f" and {len(steps) - SHOWN_STEPS:,} more" if len(steps) > SHOWN_STEPS else ""
        yield f"  document {doc_id}: step {shown}{more} of {one.last_step:,}"
    if one.skipped:
        yield f"  not applied, as skipped: step {', '.join(map(str, one.skipped))}"
    yield f"  checkpoints: {', '.join(one.checkpoints) or 'none that is left'}"
    if one.models:
        yield f"  models: {', '.join(one.models)}"


def seen_json(found: Sequence[RunSeen]) -> list[dict[str, Any]]:
    """What runs have seen, as plain JSON values."""
    return [asdict(one) for one in found]

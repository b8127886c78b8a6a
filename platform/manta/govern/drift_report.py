"""Whether new data differs from the data of a corpus or run, measure by measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

import manta
from manta.config.drift import DriftConfig
from manta.config.errors import ConfigError, CorpusError, RunError
from manta.config.urls import join
from manta.corpus.manifest import MANIFEST, Manifest, Split
from manta.corpus.remote import tokenizer_folder
from manta.corpus.tokenizer import decode
from manta.govern import drift_measures as by
from manta.govern.drawn_documents import DrawnDocuments, drawn_from_corpus, drawn_from_file
from manta.govern.drift_under_model import UnderModel, model_for_drift, under_model
from manta.record.model_origin import ModelOrigin
from manta.record.model_registry import registered_model
from manta.record.run_config import recorded_config
from manta.record.run_state import utc_now
from manta.storage.place import Place, place_of
from manta.storage.run_folder import CONFIG

Verdict = Literal["drift", "no drift", "within noise", "shown"]
Floats = NDArray[np.float64]
# Chance that any measure of data without drift is said to be beyond noise.
LEVEL = 0.05
FEWEST = 20
# Bins by quantiles of the reference, and tokens that have a bin of their own.
BINS, TOKEN_BINS = 10, 1000
SHOWN_TOKENS = 12


class DriftMeasure(BaseModel):
    """One measure of how far two sets of documents are apart.

    Attributes:
        name: name of the measure, as the threshold's key.
        value: value of the measure.
        threshold: value above which it has drifted; None if it is only shown.
        chance: share of permutations with a value as large.
        verdict: `drift` if it is above the threshold and beyond noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    value: float
    threshold: float | None
    chance: float
    verdict: Verdict


class DriftSlice(BaseModel):
    """Some of the documents on both sides.

    Attributes:
        kind: kind of slice: `source` or `length`.
        name: name of the slice.
        reference: number of the reference's documents in it.
        new: number of new documents in it.
        reference_share: share of the reference's documents.
        new_share: share of the new documents.
        reference_loss: loss of the reference's, in nats a token; None without a model or documents.
        new_loss: loss of the new ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    name: str
    reference: int
    new: int
    reference_share: float
    new_share: float
    reference_loss: float | None = None
    new_loss: float | None = None


class TokenShift(BaseModel):
    """A token whose share changed.

    Attributes:
        token: text of the token.
        reference: share of the reference's tokens.
        new: share of the new tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    token: str
    reference: float
    new: float


class DriftReport(BaseModel):
    """What was found of new data.

    Attributes:
        created: time in UTC.
        manta_version: version of Manta.
        new: the new data, for people.
        against: the reference, for people.
        model: the model that losses and states are of; "" without one.
        documents: number of documents drawn of the reference and of the new data.
        drifted: whether a measure drifted.
        measures: the measures.
        slices: sources, and documents of like length.
        tokens: the tokens whose shares changed most.
        remarks: sentences on what the values don't say.
        config: the config.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    created: str
    manta_version: str
    new: str
    against: str
    model: str = ""
    documents: tuple[int, int]
    drifted: bool
    measures: list[DriftMeasure]
    slices: list[DriftSlice] = Field(default_factory=list)
    tokens: list[TokenShift] = Field(default_factory=list)
    remarks: list[str] = Field(default_factory=list)
    config: DriftConfig


@dataclass(frozen=True)
class _Reference:
    """Corpus, and model if there is one, that new data is compared with."""

    corpus: str
    manifest: Manifest
    model: Place | None
    step: int | None


def look_for_drift(
    new: str,
    against: str,
    config: DriftConfig,
    tell: Callable[[str], None] = lambda line: None,
) -> DriftReport:
    """Compare new data with that of a corpus, or of a run whose model reads both.

    Args:
        new: folder or URL of a prepared corpus, or a file of documents.
        against: folder or URL of a corpus or run, ``RUN@STEP``, or ``registry:NAME@ALIAS``.
        config: how much is drawn, and what counts as a change.
        tell: takes lines for people.

    Raises:
        MantaError: if data or model can't be used, or the two can't be compared.
    """
    reference = _reference(against, config)
    split = _split(reference, config)
    first = drawn_from_corpus(
        reference.corpus, reference.manifest, split, config.documents, config.seed
    )
    second = _new_documents(new, reference, config)
    for side in (first, second):
        if len(side.tokens) < FEWEST:
            raise CorpusError(
                f"{side.name}: {len(side.tokens)} documents: fewer than {FEWEST} say nothing of "
                "their distribution; give more data"
            )
    remarks = list(_remarks(first, second, split, config))
    read = None
    if reference.model is not None:
        model = model_for_drift(reference.model, reference.step, config.device)
        tell(f"{reference.model}: reading {len(first.tokens) + len(second.tokens):,} documents …")
        both = [*first.tokens, *second.tokens]
        read = under_model(model, both, config.length, tell)
    measures = _measured(first, second, read, config)
    return DriftReport(
        created=utc_now(),
        manta_version=manta.__version__,
        new=second.name,
        against=first.name,
        model="" if reference.model is None else str(reference.model),
        documents=(len(first.tokens), len(second.tokens)),
        drifted=any(one.verdict == "drift" for one in measures),
        measures=measures,
        slices=list(_slices(first, second, read)),
        tokens=_shifted(first, second, reference),
        remarks=remarks,
        config=config,
    )


# ------------------------------------------------------------------------------------ what to read


def _reference(against: str, config: DriftConfig) -> _Reference:
    from manta.elastic.checks.warm_start import run_at_step

    if (folder := registered_model(against)) is not None:
        origin = ModelOrigin.read(folder)
        run = None if origin is None else place_of(origin.folder)
        if run is None or not (run / CONFIG).exists():
            raise RunError(
                f"{against}: the run that it was promoted from is gone, and with it the name of "
                "its corpus: give the corpus with --against, and language_model in the config"
            )
        return _with_model(recorded_config(run).corpus, folder, None, config)
    text, step = run_at_step(against)
    place = place_of(text)
    if (place / CONFIG).exists():
        return _with_model(recorded_config(place).corpus, place, step, config)
    return _with_model(against, None, None, config)


def _with_model(
    corpus: str, model: Place | None, step: int | None, config: DriftConfig
) -> _Reference:
    from manta.elastic.checks.warm_start import run_at_step

    if config.language_model is not None:
        folder = registered_model(config.language_model)
        text, step = (None, None) if folder else run_at_step(config.language_model)
        model = folder or place_of(str(text))
    return _Reference(corpus, Manifest.read(corpus), model, step)


def _split(reference: _Reference, config: DriftConfig) -> Split:
    wanted: Split = config.split or "validation"
    if config.split is None and not reference.manifest.tokens_of("validation"):
        wanted = "train"
    if not reference.manifest.tokens_of(wanted):
        raise CorpusError(f"{reference.corpus}: it has no {wanted} split: set split")
    return wanted


def _new_documents(new: str, reference: _Reference, config: DriftConfig) -> DrawnDocuments:
    """Documents of a corpus's training split, or of a file."""
    if not place_of(join(new, MANIFEST)).exists():
        corpus, manifest = reference.corpus, reference.manifest
        return drawn_from_file(
            Path(new), config.text, corpus, manifest, config.documents, config.seed
        )
    manifest = Manifest.read(new)
    if manifest.tokenizer_sha256 != reference.manifest.tokenizer_sha256:
        raise ConfigError(
            f"{new}: its tokenizer is another than that of {reference.corpus}: prepare it with "
            f"tokenizer.path={reference.corpus}"
        )
    split: Split = "train" if manifest.tokens_of("train") else "validation"
    return drawn_from_corpus(new, manifest, split, config.documents, config.seed)


def _remarks(
    first: DrawnDocuments, second: DrawnDocuments, split: Split, config: DriftConfig
) -> Iterator[str]:
    if not set(first.sources) & set(second.sources):
        yield (
            "Sources are not compared, as no name is in both: "
            f"{', '.join(sorted(set(second.sources))[:4])}."
        )
    if split == "train":
        yield "The reference was trained on: a model's loss on it is lower than on new data."
    for side in (first, second):
        if len(side.tokens) < side.total:
            yield f"{side.name}: {len(side.tokens):,} documents drawn of {side.total:,}."


# --------------------------------------------------------------------------------------- measures


def _measured(
    first: DrawnDocuments, second: DrawnDocuments, read: UnderModel | None, config: DriftConfig
) -> list[DriftMeasure]:
    deal = by.Deal.of(len(first.tokens), len(second.tokens), config.permutations, config.seed)
    values = dict(_dealt(first, second, read, deal))
    found = []
    for name, dealt in values.items():
        threshold = getattr(config.limits, name)
        value, chance = float(dealt[0]), by.chance(dealt)
        verdict: Verdict = "shown"
        if threshold is not None:
            verdict = "no drift"
            if value > threshold:
                verdict = "drift" if chance * len(values) <= LEVEL else "within noise"
        found.append(
            DriftMeasure(
                name=name, value=value, threshold=threshold, chance=chance, verdict=verdict
            )
        )
    return found


def _dealt(
    first: DrawnDocuments, second: DrawnDocuments, read: UnderModel | None, deal: by.Deal
) -> Iterator[tuple[str, Floats]]:
    """Name of each measure, and its value as data is and by permutations."""
    lengths = np.concatenate([first.lengths, second.lengths])
    edges = _edges(first)
    places = np.searchsorted(edges, lengths, side="left")
    yield "lengths_psi", by.dealt_stability_index(by.one_hot(places, len(edges) + 1), deal)
    yield "lengths_ks", by.largest_gap(lengths, deal)
    yield "tokens_psi", by.dealt_stability_index(_token_counts(first, second), deal)
    if set(first.sources) & set(second.sources):
        names = sorted({*first.sources, *second.sources})
        numbered = {name: number for number, name in enumerate(names)}
        at = np.array([numbered[one] for one in [*first.sources, *second.sources]])
        yield "sources_psi", by.dealt_stability_index(by.one_hot(at, len(names)), deal)
    if read is not None:
        yield "loss_rise", by.rise_of_means(read.nats, read.counts, deal)
        yield "loss_ks", by.largest_gap(read.losses, deal)
        yield "embedding_mmd", by.mean_discrepancy(read.states, deal)


def _token_counts(first: DrawnDocuments, second: DrawnDocuments) -> Floats:
    """How often each document has each of the most frequent tokens, and any other."""
    documents = [*first.tokens, *second.tokens]
    size = 1 + max(int(tokens.max(initial=0)) for tokens in documents)
    total = np.bincount(np.concatenate(documents).astype(np.int64), minlength=size)
    common = np.argsort(-total, kind="stable")[:TOKEN_BINS]
    place = np.full(size, len(common))
    place[common] = np.arange(len(common))
    rows = [np.bincount(place[tokens], minlength=len(common) + 1) for tokens in documents]
    return np.stack(rows).astype(np.float64)


def _shifted(
    first: DrawnDocuments, second: DrawnDocuments, reference: _Reference
) -> list[TokenShift]:
    """The tokens that add most to the stability index."""
    ids = [np.concatenate(side.tokens).astype(np.int64) for side in (first, second)]
    size = 1 + max(int(one.max(initial=0)) for one in ids)
    shares = [np.bincount(one, minlength=size) / len(one) for one in ids]
    smooth = [
        (share * len(one) + by.PRIOR) / len(one) for share, one in zip(shares, ids, strict=True)
    ]
    adds = (smooth[1] - smooth[0]) * np.log(smooth[1] / smooth[0])
    most = np.argsort(-adds, kind="stable")[:SHOWN_TOKENS].tolist()
    folder = tokenizer_folder(reference.corpus, reference.manifest)
    texts = decode(
        folder, str(reference.manifest.tokenizer_file), [[token] for token in most], special=True
    )
    return [
        TokenShift(token=text, reference=float(shares[0][token]), new=float(shares[1][token]))
        for token, text in zip(most, texts, strict=True)
        if shares[0][token] != shares[1][token]
    ]


# ----------------------------------------------------------------------------------------- slices


def _slices(
    first: DrawnDocuments, second: DrawnDocuments, read: UnderModel | None
) -> Iterator[DriftSlice]:
    sides = np.repeat([0, 1], [len(first.tokens), len(second.tokens)])
    sources = np.array([*first.sources, *second.sources])
    yield from _slices_of("source", sorted(set(sources.tolist())), sources, sides, read)
    lengths = np.concatenate([first.lengths, second.lengths])
    edges = _edges(first)
    names = _ranges(edges)
    named = np.array(names)[np.searchsorted(edges, lengths, side="left")]
    yield from _slices_of("length", names, named, sides, read)


def _edges(first: DrawnDocuments) -> Floats:
    """Largest lengths of the bins but for the last: deciles of the reference, whole numbers."""
    return np.unique(np.floor(by.quantile_edges(first.lengths, BINS)))


def _ranges(edges: Floats) -> list[str]:
    """Names of the bins between edges, which hold whole numbers up to each edge."""
    ends = [int(np.floor(edge)) for edge in edges]
    between = [f"{low + 1:,}–{high:,}" for low, high in pairwise(ends)]
    return [f"up to {ends[0]:,}", *between, f"from {ends[-1] + 1:,}"]


def _slices_of(
    kind: str,
    names: Sequence[str],
    of: NDArray[np.str_],
    sides: NDArray[np.int64],
    read: UnderModel | None,
) -> Iterator[DriftSlice]:
    for name in names:
        here = [(of == name) & (sides == side) for side in (0, 1)]
        losses = [_loss(read, chosen) for chosen in here]
        counts = [int(chosen.sum()) for chosen in here]
        yield DriftSlice(
            kind=kind,
            name=name,
            reference=counts[0],
            new=counts[1],
            reference_share=counts[0] / int((sides == 0).sum()),
            new_share=counts[1] / int((sides == 1).sum()),
            reference_loss=losses[0],
            new_loss=losses[1],
        )


def _loss(read: UnderModel | None, chosen: NDArray[np.bool_]) -> float | None:
    if read is None or not (tokens := float(read.counts[chosen].sum())):
        return None
    return float(read.nats[chosen].sum()) / tokens

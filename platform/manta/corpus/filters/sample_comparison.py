"""The filters that compare documents, on a sample that is in memory: for a dry run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from manta.config.filters import ContaminationSection, NearDuplicatesSection
from manta.corpus.filters.candidates import jaccard, ngram_set
from manta.corpus.filters.contamination import TEST, TEST_SPLIT, TRAIN, OverlapIndex, joined
from manta.corpus.filters.evaluations import EvaluationNgrams, ngrams_in
from manta.corpus.filters.minhash import banding, sketches
from manta.corpus.filters.near_duplicates import candidate_pairs, left_out


def near_duplicates_in(
    texts: Sequence[str], splits: NDArray[np.int8], section: NearDuplicatesSection
) -> list[tuple[int, int, float]]:
    """Documents that are near-duplicates, those that stay in their place, their similarities."""
    bands = iter(sketches(texts, section.words, banding(section.threshold)))
    pairs = candidate_pairs(bands, np.arange(len(texts)))
    sets = {place: ngram_set(texts[place], section.words) for place in np.unique(pairs).tolist()}
    similar = np.array([jaccard(sets[one], sets[other]) for one, other in pairs.tolist()])
    documents, kept = left_out(pairs[similar >= section.threshold], splits)
    return [
        (one, other, jaccard(sets[one], sets[other]))
        for one, other in zip(documents.tolist(), kept.tolist(), strict=True)
    ]


def overlaps_in(
    texts: Sequence[str],
    splits: NDArray[np.int8],
    section: ContaminationSection,
    evaluations: Sequence[EvaluationNgrams],
) -> list[tuple[int, str, float, str]]:
    """Training documents that overlap: index, with what, share of their n-grams, and the place."""
    names = [*(one.name for one in evaluations), TEST_SPLIT]
    parts = [one.ngrams for one in evaluations]
    if section.test_split:
        tested = (texts[place] for place in np.flatnonzero(splits == TEST).tolist())
        parts.append(ngrams_in(tested, section.words)[0])
    owners = np.repeat(np.arange(len(parts), dtype=np.uint16), [len(part) for part in parts])
    index = OverlapIndex(*joined(parts, owners))
    return [
        (place, names[found[0]], found[1], found[2])
        for place in np.flatnonzero(splits == TRAIN).tolist()
        if (found := index.overlap(texts[place], section.words)) is not None
    ]

"""Which samples of a split an evaluation reads: some of each source, the same at every step.

The draw is a function of the corpus's fingerprint, the split and the sample length alone: any
run, at any step and world size, reads the same samples, and a larger draw includes a smaller one.

The tokens of a split lie source after source, in the order of the manifest. So the samples that
begin in one source have consecutive ids: a *stratum*. A sample that extends into the next source
counts for the source in which it begins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from manta.corpus.manifest import Manifest, Split
from manta.stream.order import Ids, SampleOrder

if TYPE_CHECKING:
    from manta.stream.plan import Corpus

# Part of the digest, to be changed with the draw: losses of two draws can't be compared.
VERSION = "manta.eval.v1"
# Seed of the draw. Not the run's, as runs that differ in their seed are compared by these losses.
SEED = 0


@dataclass(frozen=True)
class Stratum:
    """The samples of a split that begin in one source: ids ``[first, first + samples)``.

    Attributes:
        source: the source's name.
        first: id of the stratum's first sample.
        samples: number of samples in the stratum.
        drawn: number of samples that are read of it.
    """

    source: str
    first: int
    samples: int
    drawn: int


@dataclass(frozen=True)
class EvalSample:
    """The samples that each evaluation of a run reads; small to pickle.

    Attributes:
        corpus: the split that the samples are of.
        strata: the strata, in the order of their ids.
    """

    corpus: Corpus
    strata: tuple[Stratum, ...]

    @property
    def samples(self) -> int:
        """Number of samples that are read."""
        return sum(stratum.drawn for stratum in self.strata)

    @property
    def digest(self) -> str:
        """A digest that differs if other samples are read, so that losses can't be compared."""
        content = [VERSION, self.corpus.fingerprint, self.corpus.split, self.corpus.seq_len]
        text = json.dumps([*content, [astuple(stratum) for stratum in self.strata]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def ids(self, stratum: Stratum) -> Ids:
        """Ids of the samples that are read of `stratum`, ascending: shape (drawn,)."""
        if not stratum.drawn:
            return np.empty(0, np.int64)
        key = f"{self.corpus.fingerprint}/{self.corpus.split}/{stratum.source}"
        order = SampleOrder(key=key, seed=SEED, num_samples=stratum.samples)
        return np.sort(order.ids(0, stratum.drawn)) + stratum.first


def draw(corpus: Corpus, manifest: Manifest, tokens: int) -> EvalSample:
    """Draw about `tokens` tokens of a split, from each source in proportion to its size.

    Args:
        corpus: the split, of at least one sample.
        manifest: the corpus's manifest.
        tokens: upper bound, in whole samples, but at least one sample.
    """
    counted = _strata(manifest, corpus.split, corpus.seq_len)
    sizes = [samples for _, _, samples in counted]
    wanted = max(1, min(sum(sizes), tokens // corpus.seq_len))
    shares = _in_proportion(wanted, sizes)
    strata = [Stratum(*place, drawn) for place, drawn in zip(counted, shares, strict=True)]
    return EvalSample(corpus, tuple(strata))


def _strata(manifest: Manifest, split: Split, seq_len: int) -> list[tuple[str, int, int]]:
    """Source, first sample and number of samples of each source in which a sample begins."""
    samples = manifest.tokens_of(split) // seq_len
    found: list[tuple[str, int, int]] = []
    first = tokens = 0
    for source, added in manifest.clock_of(split).items():
        tokens += added
        end = min(samples, -(-tokens // seq_len))
        if end > first:
            found.append((source, first, end - first))
            first = end
    return found


def _in_proportion(wanted: int, sizes: Sequence[int]) -> list[int]:
    """Shares of `wanted` by largest remainder; none is 0 if `wanted` is at least their number."""
    total = sum(sizes)
    shares = [wanted * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(wanted * sizes[i] % total), i))
    for index in by_remainder[: wanted - sum(shares)]:
        shares[index] += 1
    for index in range(len(sizes) if wanted >= len(sizes) else 0):
        if not shares[index]:
            shares[shares.index(max(shares))] -= 1
            shares[index] = 1
    return shares

"""Which samples of a split an evaluation reads: some of each source, the same at every step.

The draw is a function of the corpus's fingerprint, the split and the sample length alone: any
run, at any step and world size, reads the same samples, and more of them include the fewer.

The tokens of a split lie source after source, in the order in which the manifest counts them.
So the samples that begin in one source have consecutive ids: a *stratum*. A sample that runs
over the end of a source counts for the source in which it begins.
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

# Part of the digest: a change of the draw makes losses that can't be compared with older ones.
VERSION = "manta.eval.v1"
# Not the run's seed: runs that differ in it alone are compared by these losses.
SEED = 0


@dataclass(frozen=True)
class Stratum:
    """The samples of a split that begin in one source: ids ``[first, first + samples)``.

    Attributes:
        source: the source's name.
        first: id of its first sample.
        samples: how many there are.
        drawn: how many of them are read.
    """

    source: str
    first: int
    samples: int
    drawn: int


@dataclass(frozen=True)
class EvalSample:
    """The samples that each evaluation of a run reads. Small to pickle.

    Attributes:
        corpus: the split that they are of.
        strata: the strata, in the order of their ids.
    """

    corpus: Corpus
    strata: tuple[Stratum, ...]

    @property
    def samples(self) -> int:
        """How many are read."""
        return sum(stratum.drawn for stratum in self.strata)

    @property
    def digest(self) -> str:
        """Differs where losses can't be compared because other samples were read."""
        content = [VERSION, self.corpus.fingerprint, self.corpus.split, self.corpus.seq_len]
        text = json.dumps([*content, [astuple(stratum) for stratum in self.strata]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def ids(self, stratum: Stratum) -> Ids:
        """The samples that are read of `stratum`, ascending: shape (drawn,)."""
        if not stratum.drawn:
            return np.empty(0, np.int64)
        key = f"{self.corpus.fingerprint}/{self.corpus.split}/{stratum.source}"
        order = SampleOrder(key=key, seed=SEED, num_samples=stratum.samples)
        return np.sort(order.ids(0, stratum.drawn)) + stratum.first


def draw(corpus: Corpus, manifest: Manifest, tokens: int) -> EvalSample:
    """Draw about `tokens` tokens of a split, of each source in proportion.

    Args:
        corpus: the split; it has at least one sample.
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
    """Source, first sample and number of samples, of each source in which a sample begins."""
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
    """`wanted` dealt out by largest remainder; no share is empty if there is one for each."""
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

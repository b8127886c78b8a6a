"""What was computed of each sample beforehand, read as more columns of it.

It lies beside the corpus in a folder that is named by all that decides it: corpus, length of a
sample, model and settings. So nothing stale is ever read: what is another lies elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from manta.config.errors import CorpusError
from manta.config.section import Section
from manta.config.urls import join
from manta.corpus.manifest import Shard, Split
from manta.corpus.sources import open_input
from manta.sample.answer_log_probs import BYTES_A_ROW, answer_log_probs
from manta.sample.columns import Columns
from manta.sample.format import Format, OpenShards, SplitSize
from manta.sample.rows import RowFormat
from manta.sample.teacher_top import bytes_a_token, teacher_top
from manta.storage.place import Place, put
from manta.storage.seal import digest
from manta.stream.shards import ShardReader
from manta.stream.table import ShardTable

FOLDER, DESCRIPTION = "precomputed", "precomputed.json"


class PrecomputedSettings(Section):
    """All that decides what a model says of a corpus.

    `corpus` is a fingerprint, `seq_len` the tokens of a sample.
    """

    corpus: str
    seq_len: int

    def folder(self, corpus: str) -> str:
        """The folder beside a corpus, at a path or URL, for what these settings decide."""
        return join(corpus, f"{FOLDER}/{digest(self.model_dump(mode='json'))[:16]}")


class TeacherSettings(PrecomputedSettings):
    """All that decides what a teacher says of a corpus.

    `teacher` is a fingerprint, `document_mask` says whether attention stayed within documents,
    `temperature` is that of the probabilities, `top_k` how many tokens' probabilities are kept, and
    `vocabulary` the entries of the teacher's vocabulary.
    """

    teacher: str
    document_mask: bool
    temperature: float
    top_k: int
    vocabulary: int

    @property
    def form(self) -> RowFormat:
        """The format of its columns."""
        return teacher_top(self.seq_len, self.top_k, self.vocabulary)

    @property
    def bytes_a_sample(self) -> int:
        """What a sample takes on disk."""
        return self.seq_len * bytes_a_token(self.top_k, self.vocabulary)


class ReferenceSettings(PrecomputedSettings):
    """All that decides what a reference says of the answers of pairs.

    `reference` is a fingerprint. In another number format the log-probabilities would be others,
    and a margin no longer 0 where the trained model is the reference still.
    """

    reference: str
    precision: str
    param_dtype: str

    @property
    def form(self) -> RowFormat:
        """The format of its column."""
        return answer_log_probs()

    @property
    def bytes_a_sample(self) -> int:
        """What a sample of a few pairs takes on disk, about."""
        return BYTES_A_ROW


class PrecomputedManifest(Section):
    """The contents of ``precomputed.json``: by what it was computed, and its shards."""

    settings: TeacherSettings | ReferenceSettings
    precision: str
    shards: list[Shard]

    @classmethod
    def read(cls, folder: str) -> PrecomputedManifest:
        """What is in a folder, at a path or URL.

        Raises:
            OSError: if there is nothing.
            CorpusError: if it can't be understood.
        """
        path = join(folder, DESCRIPTION)
        with open_input(path) as file:
            content = file.read()
        try:
            return cls.model_validate_json(content)
        except ValueError as error:
            raise CorpusError(f"{path}: can't be understood: {error}; remove its folder") from None

    def write(self, folder: Place) -> None:
        """Write it, which says that all shards are there."""
        put(folder / DESCRIPTION, self.model_dump_json(indent=1).encode())


@dataclass(frozen=True)
class WithPrecomputed:
    """A corpus's format, whose samples have the precomputed columns too.

    Attributes:
        format: format of the corpus.
        folder: folder of what was precomputed, a path or URL.
        split: split of the samples.
    """

    format: Format
    folder: str
    split: Split

    @property
    def name(self) -> str:
        """As the manifest has it."""
        return self.format.name

    @property
    def schema(self) -> pa.Schema:
        """Of a shard of the corpus."""
        return self.format.schema

    def count(self, split: SplitSize, length: int) -> int:
        """Samples in a split."""
        return self.format.count(split, length)

    def clock(self, length: int) -> int:
        """What a sample adds to the clock."""
        return self.format.clock(length)

    def read(self, shards: OpenShards, ids: NDArray[Any]) -> Columns:
        """The columns of some samples, and what was computed of them."""
        return {**self.format.read(shards, ids), **_opened(self.folder, self.split).read(ids)}


@lru_cache(maxsize=8)
def _opened(folder: str, split: Split) -> ShardReader:
    manifest = PrecomputedManifest.read(folder)
    settings = manifest.settings
    shards = [shard for shard in manifest.shards if shard.split == split]
    return ShardReader(folder, ShardTable.of_shards(shards, split), settings.form, settings.seq_len)

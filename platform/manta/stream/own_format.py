"""The format of a run's samples: one of Manta's own, or the user's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from manta.config.errors import ConfigError
from manta.config.own_code import OwnCode, own
from manta.config.run import RunConfig
from manta.corpus.manifest import CHAT, LABELLED, OURS, PACKED, PAIRS, TOKENS, Manifest
from manta.sample.columns import Columns
from manta.sample.format import Format, OpenShards, SplitSize

MEMBERS = ("name", "schema", "count", "read", "clock")


@dataclass(frozen=True)
class OwnFormat:
    """A format of the user's own, which is pickled as the text of its file."""

    code: OwnCode

    @property
    def name(self) -> str:
        """Name of the format in the manifest."""
        return _made(self.code).name

    @property
    def schema(self) -> pa.Schema:
        """Schema of a shard, without the columns doc_id and source."""
        return _made(self.code).schema

    def count(self, split: SplitSize, length: int) -> int:
        """Number of samples in a split."""
        return _made(self.code).count(split, length)

    def read(self, shards: OpenShards, ids: NDArray[Any]) -> Columns:
        """The samples with these ids."""
        return _made(self.code).read(shards, ids)

    def clock(self, length: int) -> int:
        """Number of tokens that one sample adds to the clock."""
        return _made(self.code).clock(length)


@cache
def _made(code: OwnCode) -> Format:
    made: Format = code.made()
    if lacking := [member for member in MEMBERS if not hasattr(made, member)]:
        raise ConfigError(
            f"{code.key} = '{code.file}:{code.name}' is not a format: it lacks "
            f"{', '.join(lacking)}; docs/own_task.md shows one"
        )
    return made


def format_of(config: RunConfig, manifest: Manifest) -> Format:
    """The format of a run's samples, checked against its corpus and config.

    Raises:
        ConfigError: if the config names no format or another one than the corpus has, or
            train.seq_len doesn't suit it.
    """
    code, length = own(config, "data.format"), config.train.seq_len
    if manifest.sample in OURS:
        if code is not None:
            raise ConfigError(
                f"data.format = '{config.data.format}': the samples of {config.corpus} have the "
                f"format '{manifest.sample}', which is Manta's own: remove data.format"
            )
        _check_objective(config, manifest)
        if manifest.sample in PACKED:
            _check_packed(config, manifest)
        if length < 2:
            raise ConfigError(
                "train.seq_len = 1: a sample of one token has no next token to predict: set it to "
                "2 or more"
            )
        return manifest.format_of_samples
    if code is None:
        raise ConfigError(
            f"corpus: the samples of {config.corpus} have the format '{manifest.sample}', which is "
            "not one of Manta's own: set data.format to its file and class, such as ./mine.py:Name"
        )
    form = OwnFormat(code)
    if form.name != manifest.sample:
        raise ConfigError(
            f"data.format = '{config.data.format}': its name is '{form.name}', but the samples of "
            f"{config.corpus} have the format '{manifest.sample}': name the class of that format"
        )
    if form.clock(length) != length:
        raise ConfigError(
            f"train.seq_len = {length}: a sample of the format '{form.name}' counts as "
            f"{form.clock(length)} tokens: set train.seq_len to {form.clock(length)}"
        )
    return form


# Objective of Manta's own → the formats that it trains on (others: TOKENS); format → what a corpus
# of it holds, and what to set to train on it.
NEEDS = {
    "chat": (CHAT,),
    "distill": (TOKENS, CHAT),
    "preference": (PAIRS,),
    "reward": (PAIRS,),
    "classify": (LABELLED,),
    "regression": (LABELLED,),
}
CONTENTS = {
    TOKENS: ("text", "leave objective.type out"),
    CHAT: ("conversations", "set objective.type: chat"),
    PAIRS: ("pairs of answers", "set objective.type: preference or reward"),
    LABELLED: ("labelled texts", "set objective.type: classify or regression"),
}


def _check_objective(config: RunConfig, manifest: Manifest) -> None:
    """Raise ConfigError if an objective of Manta's own does not train on such samples."""
    objective = config.objective
    needed = NEEDS.get(objective.type, (TOKENS,))
    is_text = manifest.sample == TOKENS and objective.type == "distill"
    if objective.per == "sequence" and (is_text or manifest.is_windows):
        what = "text, whose documents" if is_text else "conversations that"
        raise ConfigError(
            f"objective.per = 'sequence': {config.corpus} holds {what} are cut anywhere into "
            "samples: leave objective.per out"
        )
    if objective.is_own:
        return
    if manifest.sample in needed:
        _check_labels(config, manifest)
        return
    wanted = " or ".join(CONTENTS[each][0] for each in needed)
    there, remedy = CONTENTS[manifest.sample]
    raise ConfigError(
        f"objective.type = '{objective.type}' trains on {wanted}, but {config.corpus} holds "
        f"{there}: {remedy}, or prepare a corpus of {wanted}"
    )


def _check_labels(config: RunConfig, manifest: Manifest) -> None:
    """Raise ConfigError if labels are classes where numbers are to be predicted, or numbers."""
    wanted = {"classify": "classes", "regression": "numbers"}.get(config.objective.type)
    there = "numbers" if manifest.classes is None else "classes"
    if wanted is not None and wanted != there:
        other = "regression" if there == "numbers" else "classify"
        raise ConfigError(
            f"objective.type = '{config.objective.type}': the labels of {config.corpus} are "
            f"{there}: set objective.type: {other}, or prepare it with labelled.labels: {wanted}"
        )


def _check_packed(config: RunConfig, manifest: Manifest) -> None:
    """Raise ConfigError if a run does not fit rows that were packed."""
    length, (there, _) = config.train.seq_len, CONTENTS[manifest.sample]
    if length != manifest.row_length:
        raise ConfigError(
            f"train.seq_len = {length}: the {there} of {config.corpus} were packed into rows "
            f"of {manifest.row_length} tokens: set train.seq_len to that, or prepare them with "
            f"{_section(manifest)}.length: {length}"
        )
    section, pairs = _section(manifest), manifest.sample == PAIRS
    alone = not pairs and not manifest.config[section]["packing"]
    if not alone and not config.data.document_mask:
        several = "conversations" if pairs else there
        remedy = f"; for a model that can't, prepare them with {section}.packing: false"
        raise ConfigError(
            f"data.document_mask: {config.corpus} has several {several} in a row, which must "
            f"not see each other: set data.document_mask: true{'' if pairs else remedy}"
        )


def _section(manifest: Manifest) -> str:
    """The section of a corpus's config that says how its rows were made."""
    return "labelled" if manifest.sample == LABELLED else "chat"

"""The manifest of a prepared corpus, which lies beside its shards.

A shard is one uncompressed Arrow IPC file with one record batch of rows of one source
(`manta.sample.shard_file`). The corpus's format (`manta.sample.format`) defines what the rows are,
and which samples are cut from them. In the format `tokens` (`manta.sample.tokens`) rows are
tokenized documents, and the shards in the manifest's order are one long sequence of tokens.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from manta.config.errors import CorpusError
from manta.config.mistakes import in_a_line
from manta.config.section import Section
from manta.config.urls import is_url, join
from manta.corpus.length_cost import LengthCosts
from manta.storage.atomic import write_whole

if TYPE_CHECKING:
    from manta.sample.format import Format

MANIFEST = "manifest.json"
Split = Literal["train", "validation", "test"]
# The format of a manifest that names none, as older versions had no other.
TOKENS = "tokens"
CHAT = "chat"
PAIRS = "pairs"
LABELLED = "labelled"
# Formats that Manta reads itself, those of them whose rows were packed, and those of these that
# hold conversations.
CHATS = (CHAT, PAIRS)
PACKED = (*CHATS, LABELLED)
OURS = (TOKENS, *PACKED)


class Shard(BaseModel):
    """One shard.

    A manifest has up to a million shards, and they are never written by hand. So they are checked
    by Pydantic's strict mode, which is several times as fast as `Section`'s checks in Python.

    Attributes:
        file: name of the shard's file in the corpus's folder.
        split: the split that the rows belong to.
        documents: number of the shard's rows.
        tokens: amount that the shard's rows add to the clock.
        bytes: size of the file.
        sha256: SHA-256 checksum of the file.
        source: the rows' source; None in corpora of older versions, whose shards mix sources.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: str
    split: Split
    documents: int
    tokens: int
    bytes: int
    sha256: str
    source: str | None = None


class Counts(Section):
    """Size of one source in one split.

    `bytes` is the size of the documents' texts in UTF-8, without special tokens; None in corpora
    of older versions. `documents` counts conversations or pairs in a corpus of these. `supervised`
    is the number of tokens of conversations that are trained on; `labels` has the number of texts
    of each class.
    """

    documents: int
    tokens: int
    bytes: int | None = None
    supervised: int | None = None
    labels: dict[str, int] | None = None


@dataclass(frozen=True)
class Vocabulary:
    """What a model needs to know of a corpus's tokens.

    Attributes:
        size: the largest token id plus one.
        eos_id: the token that ends each document; None if no token does.
        bos_id: the token that each document begins with, or the EOS of the document before it
            where that is the tokenizer's BOS too; None if there is neither.
        pad_id: a token for padding, which occurs nowhere in the corpus; None without one.
        classes: names of the classes of labelled texts, in the order of their numbers; None if
            texts have no classes.
        turn_ends: the tokens that end answers of conversations.
    """

    size: int
    eos_id: int | None = None
    bos_id: int | None = None
    pad_id: int | None = None
    classes: tuple[str, ...] | None = None
    turn_ends: tuple[int, ...] = ()


class FilterRecord(Section):
    """What one filter did to a corpus.

    Attributes:
        name: name of the filter.
        documents_in: documents that reached it.
        documents_out: documents that it kept.
        changed: documents whose text it changed.
        dropped: documents that it dropped, by reason.
        found: number of things that it found or changed, by kind.
    """

    name: str
    documents_in: int
    documents_out: int
    changed: int
    dropped: dict[str, int]
    found: dict[str, int]


class Manifest(Section):
    """The contents of ``manifest.json``.

    `fingerprint` is a digest of the other fields, except four. The paths in `config` don't count:
    the same documents read from another place make the same corpus. The bytes of texts, the
    sources of shards and what the length of rows costs don't count, as they follow from the
    documents and the rows: the same corpus prepared by an older version, which didn't record them,
    has the same fingerprint, and so the same sample order. In format 1 documents have no BOS, and
    `pad_id` isn't recorded. `sample` names the format of samples. Only Manta's own formats have the
    fields on tokens and tokenizer, only packed rows have `row_length` and `length_cost`, only chats
    and pairs have `turn_ends`, the tokens that end answers, only chats with passages for their
    questions have `passages_sha256`, a digest of these, and only texts labelled by classes have
    `classes`, in the order of their numbers. Only corpora that were filtered have `filters`, in the
    order in which they ran.
    """

    format: Literal[1, 2] = 2
    fingerprint: str = ""
    manta_version: str
    sample: str = TOKENS
    row_length: int | None = None
    turn_ends: list[int] | None = None
    classes: list[str] | None = None
    passages_sha256: str | None = None
    token_dtype: Literal["uint16", "uint32"] | None = None
    vocab_size: int | None = None
    eos_id: int | None = None
    bos_id: int | None = None
    pad_id: int | None = None
    tokenizer_file: str | None = None
    tokenizer_sha256: str | None = None
    tokenizer_config_sha256: str | None = None
    config: dict[str, Any]
    counts: dict[Split, dict[str, Counts]]
    dropped: dict[str, int]
    length_cost: LengthCosts | None = None
    filters: list[FilterRecord] | None = None
    shards: list[Shard]

    @model_validator(mode="after")
    def _tokens_are_described(self) -> Manifest:
        described: dict[str, Any] = {
            "token_dtype": self.token_dtype,
            "vocab_size": self.vocab_size,
            "eos_id": self.eos_id,
            "tokenizer_file": self.tokenizer_file,
            "tokenizer_sha256": self.tokenizer_sha256,
        }
        if self.sample in PACKED:
            described["row_length"] = self.row_length
        if self.sample in CHATS:
            described["turn_ends"] = self.turn_ends
        lacking = [name for name, value in described.items() if value is None]
        if self.sample in OURS and lacking:
            raise ValueError(f"a corpus of {self.sample} needs {', '.join(lacking)}")
        return self

    def sealed(self) -> Manifest:
        """The same manifest with its fingerprint filled in."""
        return self.model_copy(update={"fingerprint": _digest(self.model_dump(mode="json"))})

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What a model needs to know of the corpus's tokens; None if samples aren't tokens."""
        if self.vocab_size is None:
            return None
        return Vocabulary(
            self.vocab_size,
            self.eos_id,
            self.bos_id,
            self.pad_id,
            None if self.classes is None else tuple(self.classes),
            tuple(self.turn_ends or ()),
        )

    @property
    def tokenizer_files(self) -> dict[str, str | None]:
        """The tokenizer's files → checksums; format 1 has no checksum of the second file."""
        if self.tokenizer_file is None:
            return {}
        return {
            self.tokenizer_file: self.tokenizer_sha256,
            "tokenizer_config.json": self.tokenizer_config_sha256,
        }

    @property
    def begins_with(self) -> tuple[int, ...]:
        """The special tokens at the start of each document: the BOS, or none."""
        return () if self.bos_id in (None, self.eos_id) else (self.bos_id,)

    @property
    def format_of_samples(self) -> Format:
        """The format of samples, if it is one of Manta's own."""
        # Imported here, as reading a manifest needs neither NumPy nor Arrow.
        from manta.sample.chat import Chat, Pairs
        from manta.sample.labelled import Labelled
        from manta.sample.tokens import Tokens

        assert self.token_dtype is not None
        if self.sample == TOKENS:
            return Tokens(self.token_dtype)
        assert self.row_length is not None
        assert self.eos_id is not None
        padding = self.eos_id if self.pad_id is None else self.pad_id
        if self.sample == LABELLED:
            return Labelled(self.token_dtype, self.row_length, padding, self.classes is None)
        made = Pairs if self.sample == PAIRS else Chat
        return made(self.token_dtype, self.row_length, padding)

    @property
    def is_windows(self) -> bool:
        """Whether rows are windows of conversations laid end to end, which may cut one."""
        return self.sample == CHAT and self.config["chat"].get("packing") == "windows"

    @property
    def documents_are(self) -> str:
        """The word for the corpus's documents, in the plural."""
        return {CHAT: "conversations", PAIRS: "pairs", LABELLED: "texts"}.get(
            self.sample, "documents"
        )

    def shards_of(self, split: Split) -> list[Shard]:
        """The shards of `split` in the order in which their tokens are concatenated."""
        return [shard for shard in self.shards if shard.split == split]

    def tokens_of(self, split: Split) -> int:
        """Tokens in `split`, over all sources."""
        return sum(shard.tokens for shard in self.shards_of(split))

    def clock_of(self, split: Split) -> dict[str, int]:
        """Tokens that the rows of each source of `split` count as, in the order of the shards."""
        found = dict.fromkeys(self.counts.get(split, {}), 0)
        for shard in self.shards_of(split):
            if shard.source is None:  # an older version's shard, which may have several sources
                return {name: counts.tokens for name, counts in self.counts[split].items()}
            found[shard.source] += shard.tokens
        return found

    def tokens_per_byte(self, split: Split) -> float | None:
        """Tokens for each byte of text in `split`, with special tokens; None if unknown."""
        counts = self.counts.get(split, {}).values()
        known = [count.bytes for count in counts if count.bytes is not None]
        if len(known) < len(counts) or not sum(known):
            return None
        return sum(count.tokens for count in counts) / sum(known)

    def write(self, folder: Path, *, aside: Path | None = None) -> None:
        """Write ``manifest.json`` into `folder`, whole or not at all, by a temporary in `aside`."""
        text = json.dumps(self.model_dump(mode="json"), indent=1) + "\n"
        write_whole(folder / MANIFEST, text.encode(), aside=aside)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read and check the manifest of the corpus in `folder`, a path or URL.

        Raises:
            CorpusError: if it is missing or unreadable, or doesn't match its fingerprint.
        """
        path = join(str(folder), MANIFEST)
        try:
            content = _content(path)
            manifest = cls.model_validate_json(content)
        except (FileNotFoundError, NotADirectoryError):
            remedy = "make one with 'manta prepare CORPUS.yaml'"
            if str(folder).endswith((".yaml", ".yml")):
                remedy += ", and give the folder that this config names as 'out'"
            raise CorpusError(f"{path}: no prepared corpus here; {remedy}") from None
        except (OSError, ValidationError) as error:
            raise CorpusError(f"{path}: can't be read as a manifest: {in_a_line(error)}") from None
        # The digest of the file's own values, which are the same as a dump of the manifest.
        if manifest.fingerprint != _digest(json.loads(content)):
            raise CorpusError(
                f"{path}: its content does not match its fingerprint; it was changed after "
                "'manta prepare' wrote it: prepare the corpus again"
            )
        return manifest


def _digest(content: dict[str, Any]) -> str:
    """The fingerprint of a manifest, given as plain JSON values, which are changed."""
    content.pop("fingerprint", None)
    content.pop("length_cost", None)
    if content.get("sample") == TOKENS:
        del content["sample"]
    for name in ("row_length", "turn_ends", "classes", "passages_sha256", "filters"):
        if content.get(name) is None:
            content.pop(name, None)
    for shard in content["shards"]:
        shard.pop("source", None)
    for origin in [*content["config"].get("sources", []), content["config"].get("tokenizer")]:
        if isinstance(origin, dict):
            origin.pop("paths", None)
            origin.pop("path", None)
    for sources in content["counts"].values():
        for counts in sources.values():
            counts.pop("bytes", None)
            for name in ("supervised", "labels"):
                if counts.get(name) is None:
                    counts.pop(name, None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _content(path: str) -> bytes:
    if not is_url(path):
        return Path(path).read_bytes()
    from manta.corpus.sources import open_input  # slow to import, and only URLs need it

    with open_input(path) as file:
        return file.read()

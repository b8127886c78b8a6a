"""What a prepared corpus holds: the manifest beside its token shards.

A shard is one uncompressed Arrow IPC file with one record batch; one row is one
document: ``tokens`` (list of uint16 or uint32, EOS last), ``doc_id`` and ``source``.
The shards of a split, in the manifest's order, are one long sequence of tokens.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from manta.config.errors import CorpusError
from manta.config.model import Section
from manta.config.urls import is_url, join
from manta.storage.atomic import write_whole

MANIFEST = "manifest.json"
Split = Literal["train", "validation", "test"]
DIGESTED = 4096  # shards at a time


class Shard(BaseModel):
    """One token shard.

    Written by us, never by hand, and up to a million in a manifest: Pydantic's own strictness,
    without the checks of `Section` in Python, reads them several times as fast.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: str
    split: Split
    documents: int
    tokens: int
    bytes: int
    sha256: str


class Counts(Section):
    """Size of one source in one split."""

    documents: int
    tokens: int


class Manifest(Section):
    """The contents of ``manifest.json``.

    `fingerprint` covers everything else in it but the paths in `config`: the same documents
    read from another place make the same corpus.
    """

    format: Literal[1] = 1
    fingerprint: str = ""
    manta_version: str
    token_dtype: Literal["uint16", "uint32"]
    vocab_size: int
    eos_id: int
    tokenizer_file: str
    tokenizer_sha256: str
    config: dict[str, Any]
    counts: dict[Split, dict[str, Counts]]
    dropped: dict[str, int]
    shards: list[Shard]

    def sealed(self) -> Manifest:
        """The same manifest with its fingerprint filled in."""
        return self.model_copy(update={"fingerprint": self._digest()})

    def shards_of(self, split: Split) -> list[Shard]:
        """The shards of `split` in the order in which their tokens are concatenated."""
        return [shard for shard in self.shards if shard.split == split]

    def tokens_of(self, split: Split) -> int:
        """Tokens in `split`, over all sources."""
        return sum(shard.tokens for shard in self.shards_of(split))

    def write(self, folder: Path, *, aside: Path | None = None) -> None:
        """Put ``manifest.json`` into `folder`, whole or not at all; unfinished in `aside`."""
        text = json.dumps(self.model_dump(mode="json"), indent=1) + "\n"
        write_whole(folder / MANIFEST, text.encode(), aside=aside)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read and check the manifest of the corpus in `folder`, a path or URL.

        Raises:
            CorpusError: if it is missing, unreadable, or not what its fingerprint says.
        """
        path = join(str(folder), MANIFEST)
        try:
            manifest = cls.model_validate_json(_content(path))
        except FileNotFoundError:
            raise CorpusError(
                f"{path}: no prepared corpus here; make one with 'manta prepare CORPUS.yaml'"
            ) from None
        except (OSError, ValidationError) as error:
            raise CorpusError(f"{path}: can't be read as a manifest: {error}") from None
        if manifest.fingerprint != manifest._digest():
            raise CorpusError(
                f"{path}: its content does not match its fingerprint; it was changed after "
                "'manta prepare' wrote it: prepare the corpus again"
            )
        return manifest

    def _digest(self) -> str:
        """SHA-256 of all that the fingerprint covers, as JSON with sorted keys and no spaces."""
        content = self.model_dump(mode="json", exclude={"fingerprint", "shards"})
        for origin in [*content["config"].get("sources", []), content["config"].get("tokenizer")]:
            if isinstance(origin, dict):
                origin.pop("paths", None)
                origin.pop("path", None)
        # A million shards are a gigabyte as JSON values: never all of them at once. No key behind
        # theirs holds a mapping, so the last of these words is where they belong.
        before, empty, after = _canonical({**content, "shards": []}).rpartition('"shards":[]')
        digest = hashlib.sha256((before + empty[:-1]).encode())
        for first in range(0, len(self.shards), DIGESTED):
            chunk = [vars(shard) for shard in self.shards[first : first + DIGESTED]]
            digest.update(("," if first else "").encode() + _canonical(chunk)[1:-1].encode())
        digest.update((empty[-1:] + after).encode())
        return digest.hexdigest()


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _content(path: str) -> bytes:
    if not is_url(path):
        return Path(path).read_bytes()
    from manta.corpus.sources import open_input  # heavy, and a path needs nothing of it

    with open_input(path) as file:
        return file.read()

"""`lineage.json` of a corpus: the files that it was made of with their hashes, and its parents.

The file lies beside the manifest and is no part of the fingerprint: the same documents, read from
other files or compressed otherwise, are the same corpus. It names the fingerprint that it is for,
and has a seal. A parent's own origin is in it as a whole, so that nothing is lost with the parent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import manta
from manta.config.errors import CorpusError
from manta.config.mistakes import in_a_line
from manta.config.urls import is_url, join
from manta.storage.atomic import write_whole
from manta.storage.run_folder import LINEAGE
from manta.storage.seal import read_sealed, seal_text

Relation = Literal["extends", "forgets", "joins"]


class OriginFile(BaseModel):
    """An input file of a corpus.

    Attributes:
        path: path or URL of the file when the corpus was made.
        bytes: size of the file.
        sha256: SHA-256 of the file's content.
        rows: number of rows, lines or documents that were read of the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    bytes: int
    sha256: str
    rows: int


class OriginSource(BaseModel):
    """A source of a corpus: what went in, what came out, and what became of the rest.

    Attributes:
        name: name of the source.
        format: format of the source's files.
        files: input files in canonical order.
        rows: number of rows that were read.
        dropped: number of documents that were left out, by reason or filter.
        documents: number of documents that are in the corpus, over all splits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    format: str
    files: list[OriginFile]
    rows: int
    dropped: dict[str, int]
    documents: int


class ParentCorpus(BaseModel):
    """A corpus that another one was made of.

    Attributes:
        relation: verb for how a child uses its parent: extends, forgets or joins.
        folder: folder of the parent when the other one was made.
        fingerprint: fingerprint of the parent.
        forgotten: ids of the parent's documents that the other one leaves out.
        origin: the parent's own origin; None where an older version of Manta made it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    relation: Relation
    folder: str
    fingerprint: str
    forgotten: list[str] = Field(default_factory=list)
    origin: Origin | None = None


class Origin(BaseModel):
    """The content of a corpus's `lineage.json`.

    Attributes:
        fingerprint: fingerprint of the corpus that this is the origin of.
        manta_version: version of Manta that made the corpus.
        sources: sources that were read when the corpus was made.
        parents: corpora that the corpus was made of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1, 2] = 2
    fingerprint: str
    manta_version: str = manta.__version__
    sources: list[OriginSource] = Field(default_factory=list)
    parents: list[ParentCorpus] = Field(default_factory=list)

    def write(self, folder: Path, *, aside: Path | None = None) -> None:
        """Write the file into a corpus's folder, whole or not at all."""
        text = seal_text(self.model_dump_json())
        write_whole(folder / LINEAGE, text.encode(), aside=aside)

    @classmethod
    def read(cls, folder: str | Path, fingerprint: str) -> Origin | None:
        """The origin of the corpus in a folder or at a URL; None if an older version made it.

        Raises:
            CorpusError: if the file is damaged, or belongs to another corpus.
        """
        path = join(str(folder), LINEAGE)
        try:
            origin = cls.model_validate_json(read_sealed(_content(path)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValidationError) as error:
            raise CorpusError(f"{path}: can't be read: {in_a_line(error)}") from None
        except ValueError as error:
            raise CorpusError(
                f"{path}: {error}; restore it from a copy, or remove it: the corpus then has no "
                "record of its files"
            ) from None
        if origin.fingerprint != fingerprint:
            raise CorpusError(
                f"{path}: is of another corpus, fingerprint {origin.fingerprint[:12]}…: restore "
                "it from a copy, or remove it"
            )
        return origin

    def files(self) -> Iterator[tuple[OriginSource, OriginFile]]:
        """Each file that the corpus or a parent was made of, with its source."""
        for source in self.sources:
            for file in source.files:
                yield source, file
        for parent in self.parents:
            if parent.origin is not None:
                yield from parent.origin.files()


def parent_of(relation: Relation, folder: str, fingerprint: str) -> ParentCorpus:
    """A corpus as the parent of one that is made of it, with its own origin."""
    return ParentCorpus(
        relation=relation,
        folder=folder if is_url(folder) else str(Path(folder).expanduser().absolute()),
        fingerprint=fingerprint,
        origin=Origin.read(folder, fingerprint),
    )


def _content(path: str) -> bytes:
    if not is_url(path):
        return Path(path).read_bytes()
    from manta.corpus.sources import open_input  # slow to import, and only URLs need it

    with open_input(path) as file:
        return file.read()

"""A corpus that extends another one: more documents behind those that are there.

All shards of the other corpus come first, as links to its files, so its documents keep their split,
shard and place, and whole samples their ids. New documents that it has already are duplicates; so
are those that a parent of it was made to forget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manta.config.corpus import CorpusConfig
from manta.config.errors import CorpusError
from manta.config.urls import is_url
from manta.corpus.documents import HASH_BYTES, SPLITS, Hashes
from manta.corpus.join import TOKENIZER
from manta.corpus.length_cost import added
from manta.corpus.lineage.document_places import ID
from manta.corpus.lineage.origin import Origin, ParentCorpus, parent_of
from manta.corpus.manifest import OURS, Manifest, Split
from manta.corpus.tokenizer import CorpusTokenizer
from manta.sample import shard_file
from manta.sample.without_documents import TOGETHER
from manta.storage.atomic import link

# Sections of the config that must be those of the corpus that is extended.
SECTIONS = ("split", "chat", "labelled")


@dataclass(frozen=True)
class ExtendedCorpus:
    """The corpus that another one extends.

    Attributes:
        folder: folder of the corpus.
        manifest: manifest of the corpus.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def of(cls, config: CorpusConfig, tokenizer: CorpusTokenizer | None) -> ExtendedCorpus | None:
        """The corpus that a config extends, checked to fit; None without one.

        Raises:
            CorpusError: naming the key that doesn't fit, and the remedy.
        """
        if config.extends is None:
            return None
        if is_url(config.extends):
            raise CorpusError(f"extends: {config.extends}: copy the corpus into a folder first")
        found = cls(Path(config.extends).expanduser(), Manifest.read(config.extends))
        found._check_kind()
        found._check_tokenizer(tokenizer)
        return found

    def _check_kind(self) -> None:
        manifest = self.manifest
        if manifest.sample not in OURS or any(shard.source is None for shard in manifest.shards):
            raise CorpusError(
                f"extends: {self.folder}: not a corpus that this version's 'manta prepare' made: "
                "prepare it again"
            )
        if manifest.passages_sha256 is not None:
            raise CorpusError(
                f"extends: {self.folder}: has passages for its questions (chat.context), which new "
                "questions would not have: prepare all sources together"
            )

    def _check_tokenizer(self, tokenizer: CorpusTokenizer | None) -> None:
        manifest = self.manifest
        if tokenizer is None:
            raise CorpusError("extends: tokenizer.vocab_size: leave 'tokenizer' out")
        ours = tokenizer.sha256, tokenizer.config_sha256
        if ours != tuple(getattr(manifest, key) for key in TOKENIZER):
            raise CorpusError(
                f"extends: tokenizer: not the one of {self.folder}: leave 'tokenizer' out, and the "
                "new documents get that one"
            )
        if (tokenizer.bos_id, tokenizer.eos_id) != (manifest.bos_id, manifest.eos_id):
            raise CorpusError(
                f"extends: tokenizer.bos and tokenizer.eos must be those of {self.folder}: "
                f"{manifest.config.get('tokenizer')}"
            )

    def check_config(self, recorded: dict[str, object]) -> None:
        """Refuse a config, as the manifest records it, that makes other splits, rows or sources.

        Raises:
            CorpusError: naming the key.
        """
        before = self.manifest.config
        for section in SECTIONS:
            if recorded.get(section) != before.get(section):
                raise CorpusError(
                    f"{section}: must be that of {self.folder}, which is extended: write "
                    f"{section}: {before.get(section) or 'null'}"
                )
        there = {name for counts in self.manifest.counts.values() for name in counts}
        sources: object = recorded["sources"]
        assert isinstance(sources, list)
        for source in sources:
            if source["name"] in there:
                raise CorpusError(
                    f"sources: '{source['name']}' is a source of {self.folder} already, which is "
                    f"extended: give the new one another name, such as {source['name']}-2"
                )

    def known_hashes(self) -> Hashes:
        """Hashes of the documents that are there or were forgotten, shape (documents, HASH_BYTES).

        Raises:
            CorpusError: if a shard can't be read.
        """
        ids = [name for shard in self.manifest.shards for name in self._ids(shard.file)]
        origin = Origin.read(self.folder, self.manifest.fingerprint)
        ids += [one for parent in _parents(origin) for one in parent.forgotten]
        content = b"".join(bytes.fromhex(one) for one in ids if ID.fullmatch(one))
        return np.frombuffer(content, np.uint8).reshape(-1, HASH_BYTES)

    def _ids(self, file: str) -> list[str]:
        names = shard_file.read(self.folder / file).column("doc_id")
        found: list[str] = pc.split_pattern(pa.array(names), TOGETHER).flatten().to_pylist()
        return found

    @property
    def shards_before(self) -> dict[Split, int]:
        """How many numbers of shards are taken in each split."""
        found: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        for shard in self.manifest.shards:
            number = int(shard.file.removesuffix(".arrow").rpartition("-")[2])
            found[shard.split] = max(found[shard.split], number + 1)
        return found

    def classes_with(self, found: list[str]) -> list[str]:
        """The classes of the corpus, whose numbers stay, once they have those that were found.

        Raises:
            CorpusError: if there are new ones.
        """
        there = self.manifest.classes
        if there is None:
            return found
        if new := sorted(set(found) - set(there)):
            raise CorpusError(
                f"extends: the new texts have the class '{new[0]}', which {self.folder} has not: "
                "its model would have one class more: prepare all sources together"
            )
        return there

    def link_into(self, out: Path) -> None:
        """Give the shards their names in the folder of the new corpus, too."""
        for shard in self.manifest.shards:
            if not (out / shard.file).exists():
                link((self.folder / shard.file).resolve(), out / shard.file)

    def with_new(self, new: Manifest) -> Manifest:
        """The manifest of all documents, of the manifest of the new ones."""
        old = self.manifest
        pad_id = new.pad_id if old.pad_id == new.pad_id else None
        turn_ends = new.turn_ends
        if old.turn_ends is not None:
            turn_ends = sorted({*old.turn_ends, *(new.turn_ends or [])})
        return new.model_copy(
            update={
                "pad_id": pad_id,
                "turn_ends": turn_ends,
                "counts": {
                    split: {**old.counts.get(split, {}), **counts}
                    for split, counts in new.counts.items()
                },
                "dropped": {
                    reason: old.dropped.get(reason, 0) + new.dropped.get(reason, 0)
                    for reason in {**old.dropped, **new.dropped}
                },
                "length_cost": added([old.length_cost, new.length_cost]),
                "config": {
                    **new.config,
                    "sources": [*old.config.get("sources", []), *new.config["sources"]],
                },
                "shards": [
                    shard
                    for split in SPLITS
                    for shard in [*old.shards_of(split), *new.shards_of(split)]
                ],
            }
        ).sealed()

    @property
    def parent(self) -> ParentCorpus:
        """The corpus as a parent in the new one's origin."""
        return parent_of("extends", str(self.folder), self.manifest.fingerprint)


def _parents(origin: Origin | None) -> Iterator[ParentCorpus]:
    """All corpora that a corpus was made of, however far above."""
    for parent in origin.parents if origin else ():
        yield parent
        yield from _parents(parent.origin)

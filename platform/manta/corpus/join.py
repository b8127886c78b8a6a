"""`manta join`: several prepared corpora as one, without a copy of their shards.

The joined corpus is a corpus like any other: a folder with a manifest, whose shards are links to
those of its parts. So runs, mixtures, evaluations and checks know nothing of joining. The sources
of all parts lie side by side, in the order in which the parts are given.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from manta.config.errors import CorpusError
from manta.config.urls import is_url
from manta.corpus.length_cost import added
from manta.corpus.lineage.origin import Origin, parent_of
from manta.corpus.manifest import MANIFEST, Counts, Manifest, Shard, Split
from manta.corpus.workspace import shard_name
from manta.storage.atomic import sync_folder

# What parts must have in common, so that a sample means the same whichever part it is of.
TOKENIZER = ("tokenizer_sha256", "tokenizer_config_sha256")
COMMON = (
    *("sample", *TOKENIZER, "token_dtype", "vocab_size", "eos_id", "bos_id", "pad_id"),
    *("row_length", "turn_ends", "classes", "passages_sha256"),
)
# Sections of their configs that must be equal, too. By equal shares of the splits a document that
# two parts have is in the same split of both, as its split is a function of its text.
SECTIONS = ("split", "chat", "labelled")


class Part(NamedTuple):
    """A corpus that is joined with others."""

    folder: Path
    manifest: Manifest

    def __str__(self) -> str:
        return f"{self.folder} ({self.manifest.fingerprint[:12]}…)"


def join(folders: Sequence[str], out: str) -> Manifest:
    """Make one corpus of several, in a new folder; returns its manifest.

    A file is a hard link where the file system can, else a copy. Called again, it changes nothing.

    Args:
        folders: the corpora, at least two.
        out: folder of the joined corpus.

    Raises:
        CorpusError: naming what the corpora don't have in common, or another obstacle.
    """
    parts = [_part(folder) for folder in folders]
    if len(parts) < 2:
        raise CorpusError("give at least two corpora to join")
    for part in parts[1:]:
        _check_alike(parts[0], part)
    _check_sources(parts)
    manifest = _joined(parts)
    target = Path(out)
    if target.exists():
        if (target / MANIFEST).exists() and Manifest.read(out).fingerprint == manifest.fingerprint:
            return manifest
        raise CorpusError(f"{out}: is there already, and is not this corpus; choose another folder")
    _write(parts, manifest, target)
    return manifest


def _part(folder: str) -> Part:
    if is_url(folder):
        raise CorpusError(f"{folder}: a corpus to join must be in a folder: copy it there first")
    return Part(Path(folder), Manifest.read(folder))


def _check_alike(one: Part, other: Part) -> None:
    """Refuse two corpora whose samples don't mean the same."""
    differing = [k for k in COMMON if getattr(one.manifest, k) != getattr(other.manifest, k)]
    if set(differing) & set(TOKENIZER):
        raise CorpusError(
            f"{one} and {other} have different tokenizers, "
            f"{(one.manifest.tokenizer_sha256 or 'none')[:12]}… and "
            f"{(other.manifest.tokenizer_sha256 or 'none')[:12]}…: prepare one of them again "
            f"with tokenizer.path: {one.folder / (one.manifest.tokenizer_file or '')}"
        )
    if differing:
        key = differing[0]
        values = [getattr(part.manifest, key) for part in (one, other)]
        raise CorpusError(
            f"{one} and {other} can't be joined: {key} is {values[0]!r} in the first and "
            f"{values[1]!r} in the second: prepare one of them again with what the other has"
        )
    for section in SECTIONS:
        if one.manifest.config.get(section) != other.manifest.config.get(section):
            raise CorpusError(
                f"{one} and {other} were prepared with different sections '{section}': prepare one "
                "of them again with what the other has"
            )


def _check_sources(parts: Sequence[Part]) -> None:
    """Refuse two parts that have a source of one name, or shards that name no source."""
    owner: dict[str, Part] = {}
    for part in parts:
        if any(shard.source is None for shard in part.manifest.shards):
            raise CorpusError(f"{part}: an older version of Manta prepared it: prepare it again")
        for name in {name for counts in part.manifest.counts.values() for name in counts}:
            if name in owner:
                raise CorpusError(
                    f"{owner[name]} and {part} both have a source called '{name}': prepare one of "
                    "them again with another name"
                )
            owner[name] = part


def _joined(parts: Sequence[Part]) -> Manifest:
    """The manifest of all parts together, sealed."""
    first = parts[0].manifest
    counts: dict[Split, dict[str, Counts]] = {}
    for part in parts:
        for split, by_source in part.manifest.counts.items():
            counts.setdefault(split, {}).update(by_source)
    reasons = dict.fromkeys(reason for part in parts for reason in part.manifest.dropped)
    dropped = {
        reason: sum(part.manifest.dropped.get(reason, 0) for part in parts) for reason in reasons
    }
    sources = [source for part in parts for source in part.manifest.config.get("sources", [])]
    config = {name: value for name, value in first.config.items() if name != "filters"}
    joined = [part.manifest.fingerprint for part in parts]
    return first.model_copy(
        update={
            "counts": counts,
            "dropped": dropped,
            "length_cost": added(part.manifest.length_cost for part in parts),
            # Each part has filters of its own, which its fingerprint stands for.
            "config": {**config, "sources": sources, "joined": joined},
            "filters": None,
            "shards": [shard for _, _, shard in _shards(parts)],
        }
    ).sealed()


def _shards(parts: Sequence[Part]) -> Iterator[tuple[Part, str, Shard]]:
    """For each shard of the joined corpus, the part, the file's name there, and the shard."""
    numbers: dict[str, int] = {}
    for part in parts:
        for shard in part.manifest.shards:
            number = numbers.setdefault(shard.split, 0)
            numbers[shard.split] += 1
            named = shard.model_copy(update={"file": shard_name(shard.split, number)})
            yield part, shard.file, named


def _write(parts: Sequence[Part], manifest: Manifest, target: Path) -> None:
    """Make the folder of a joined corpus, whole or not at all."""
    aside = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for part, file, shard in _shards(parts):
            _link(part.folder / file, aside / shard.file)
        for file in manifest.tokenizer_files:
            if (parts[0].folder / file).exists():
                _link(parts[0].folder / file, aside / file)
        parents = [
            parent_of("joins", str(part.folder), part.manifest.fingerprint) for part in parts
        ]
        Origin(fingerprint=manifest.fingerprint, parents=parents).write(aside)
        manifest.write(aside)
        os.rename(aside, target)
        sync_folder(target.parent)
    except OSError as error:
        raise CorpusError(f"{target}: can't be written: {error.strerror}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """A file under another name: the same file, or a copy on another file system."""
    try:
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise CorpusError(f"{source}: is missing: prepare its corpus again") from None
    except OSError:
        shutil.copyfile(source, target)

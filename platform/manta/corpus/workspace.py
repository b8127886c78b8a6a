"""The folder of a corpus while it is being made, and the files of an interrupted attempt.

Unfinished work is in the hidden folder `WORK`, with the key of the config and input that it belongs
to. Every file there is whole, so that its existence means that this work is done. Shards are moved
to the corpus's folder as they are finished; the manifest is written last, then `WORK` is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import manta
from manta.config.errors import CorpusError
from manta.corpus.canonical import CONFIG_FILE, TOKENIZER_FILE
from manta.corpus.filters.dropped import DROPPED
from manta.corpus.manifest import MANIFEST, Manifest
from manta.storage.atomic import unwritable, write_whole
from manta.storage.run_folder import LINEAGE

logger = logging.getLogger(__name__)

WORK = ".prepare"
KEY = "key.json"
LOCK = "lock"
# File beside the manifest of a finished corpus with its key. Not in the manifest, as the key
# depends on times of modification, which are no part of a corpus.
PREPARED = ".prepared.json"
QUARANTINE = "quarantine.jsonl"
# Which passages each conversation got; there is one only where some were attached.
CONTEXT = "context.parquet"
SHARD_NAME = re.compile(r"^(train|validation|test)-\d{5,}\.arrow$")
# Version of unfinished work; work of another version isn't continued.
LAYOUT = 2
OURS = {TOKENIZER_FILE, CONFIG_FILE, PREPARED, QUARANTINE, CONTEXT, DROPPED, LINEAGE}


def shard_name(split: str, number: int) -> str:
    """The file name of a split's shard, numbered from 0."""
    return f"{split}-{number:05d}.arrow"


@dataclass(frozen=True)
class Workspace:
    """The folders of one attempt.

    Attributes:
        out: the corpus's folder.
        key: digest of config and input, by which a finished corpus is recognised.
    """

    out: Path
    key: str

    @property
    def work(self) -> Path:
        """The hidden folder of unfinished work."""
        return self.out / WORK

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer until the corpus is finished."""
        return self.work / "tokenizer"

    @property
    def passages(self) -> Path:
        """Folder of the index of passages, until the end."""
        return self.work / "passages"

    def finish(self, manifest: Manifest) -> None:
        """Write key and manifest, which makes the corpus finished, and remove unfinished work."""
        write_whole(self.out / PREPARED, _record(self.key), aside=self.work)
        manifest.write(self.out, aside=self.work)
        shutil.rmtree(self.work, ignore_errors=True)

    def discard(self) -> None:
        """Remove all files of this attempt."""
        _clear(self.out)
        shutil.rmtree(self.work, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.out.rmdir()  # only if it is empty


def finished(out: Path, key: str) -> Manifest | None:
    """The manifest of the corpus in `out`, if it was made from what `key` stands for.

    Raises:
        CorpusError: if `out` holds a corpus made from something else, or a damaged one.
    """
    if not (out / MANIFEST).exists():
        return None
    manifest = Manifest.read(out)
    if _recorded(out / PREPARED) != key:
        raise CorpusError(
            f"{out}: holds a corpus prepared from another config or other input (fingerprint "
            f"{manifest.fingerprint[:12]}); a corpus is never overwritten: choose another 'out', "
            "or remove this corpus"
        )
    for shard in manifest.shards:
        path = out / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise CorpusError(f"{path}: missing or cut short; remove {out} and prepare it again")
    shutil.rmtree(out / WORK, ignore_errors=True)
    return manifest


def already_prepared(out: str | Path, manifest: Manifest) -> str:
    """What people are told of a corpus that is finished, and by which version if by another."""
    by = manifest.manta_version
    version = (
        "" if by == manta.__version__ else f" by Manta {by}; to have this version's, remove it"
    )
    return f"{out}: already prepared from this config and input{version}; nothing to do"


def refuse_unusable(out: Path) -> None:
    """Raise CorpusError if `out` holds something that is neither a corpus nor the start of one."""
    if out.exists() and not (out / WORK).exists() and any(out.iterdir()):
        raise CorpusError(f"{out}: the folder has files that are no corpus; choose another 'out'")


@contextlib.contextmanager
def opened(out: Path, key: str, version: str) -> Iterator[Workspace]:
    """The workspace in `out`, ready to start or to go on, and ours alone.

    Args:
        out: folder of the corpus; made if it is not there.
        key: digest of config and input.
        version: version of the code; unfinished work of another version is not continued.

    Raises:
        CorpusError: if `out` can't be used.
    """
    workspace = Workspace(out, key)
    try:
        refuse_unusable(out)
        workspace.work.mkdir(parents=True, exist_ok=True)
        lock = (workspace.work / LOCK).open("w")
    except OSError as error:
        raise unwritable(out, error) from None
    with lock:
        _lock(lock, out)
        _keep_or_clear(workspace, f"{key} {version} {LAYOUT}")
        yield workspace


def _lock(lock: IO[str], out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CorpusError(
            f"{out}: another 'manta prepare' is at work here; wait until it ends, or stop it"
        ) from None


def _keep_or_clear(workspace: Workspace, key: str) -> None:
    """Keep the leftovers of an attempt with the same key; remove any others."""
    work = workspace.work
    for unfinished in work.glob("*.tmp"):
        unfinished.unlink(missing_ok=True)
    if _recorded(work / KEY) == key:
        return
    leftovers = [path for path in work.iterdir() if path.name != LOCK]
    if leftovers:
        logger.warning(
            "%s: an interrupted attempt had another config, input or version: its files are "
            "removed, and the corpus is prepared from the start",
            workspace.out,
        )
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    _clear(workspace.out)
    write_whole(work / KEY, _record(key))


def _clear(out: Path) -> None:
    """Remove the files of a corpus without a manifest, and no others."""
    for path in out.iterdir():
        if SHARD_NAME.match(path.name) or path.name in OURS:
            path.unlink(missing_ok=True)


def _record(key: str) -> bytes:
    return json.dumps({"key": key}).encode() + b"\n"


def _recorded(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_bytes())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

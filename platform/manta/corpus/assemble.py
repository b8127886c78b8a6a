"""Join the pieces of consecutive units of one source into shards, as soon as they are written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

from manta.config.errors import CorpusError
from manta.corpus.documents import SPLITS
from manta.corpus.leftovers import piece_file, read_record, sealed_json, shard_record
from manta.corpus.manifest import Shard, Split
from manta.corpus.workspace import Workspace, shard_name
from manta.sample import shard_file
from manta.sample.tokens import document_tokens
from manta.storage.atomic import sync_folder, unwritable, whole_file, write_whole

# A function from the table of joined pieces to the shard's rows and the tokens that these count as.
Arrange: TypeAlias = Callable[[Any], tuple[Any, int]]


class ShardUnits(NamedTuple):
    """The consecutive units of one source, given by its index, that make up a shard."""

    source: int
    units: list[int]


class Grouping:
    """Groups consecutive units into the shards of one split: a pure function of their sizes.

    A shard ends with the unit that fills it to `shard_tokens`, and has units of one source only.
    """

    def __init__(self, shard_tokens: int):
        self._shard_tokens = shard_tokens
        self._units: list[int] = []
        self._tokens = self._source = 0

    def add(self, unit: int, tokens: int, source: int) -> Iterator[ShardUnits]:
        """Take the next unit; yields the units of each shard that is complete now."""
        if not tokens:
            return
        if source != self._source:
            yield from self.rest()
        self._units.append(unit)
        self._tokens += tokens
        self._source = source
        if self._tokens >= self._shard_tokens:
            yield from self.rest()

    def rest(self) -> Iterator[ShardUnits]:
        """The units of the last shard, if any are left."""
        if self._units:
            yield ShardUnits(self._source, self._units)
        self._units, self._tokens = [], 0


class Assembler:
    """Takes the counts of units in any order, and writes shards in canonical order.

    One thread of the driver writes: joining and counting run at the speed of memory, which is some
    hundred times as fast as a core tokenizes.
    """

    def __init__(
        self,
        workspace: Workspace,
        shard_tokens: int,
        sources: Sequence[str],
        arrange: Arrange | None = None,
        taken: Mapping[Split, int] | None = None,
    ):
        """Begin each split's shards after so many numbers that are `taken`."""
        self._workspace, self._sources = workspace, sources
        self._arrange, self._taken = arrange or _documents, taken or {}
        self._groupings = {split: Grouping(shard_tokens) for split in SPLITS}
        self._waiting: dict[int, dict[str, Any]] = {}  # records of units, by their number
        self._next = 0
        self._shards: dict[Split, list[Future[Shard]]] = {split: [] for split in SPLITS}
        self._unchecked: deque[Future[Shard]] = deque()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Assembler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, record: dict[str, Any]) -> None:
        """Take the counts of one unit.

        Raises:
            CorpusError: if a shard could not be written.
        """
        self._waiting[record["unit"]] = record
        while self._next in self._waiting:
            taken = self._waiting.pop(self._next)
            for split in SPLITS:
                tokens = taken["splits"].get(split, (0, 0))[1]
                closed = self._groupings[split].add(self._next, tokens, taken["source"])
                self._submit(split, closed)
            self._next += 1
        while self._unchecked and self._unchecked[0].done():
            self._unchecked.popleft().result()

    def finish(self) -> list[Shard]:
        """Write the last shards; returns all shards, by split, in the order of their tokens."""
        for split in SPLITS:
            self._submit(split, self._groupings[split].rest())
        return [shard.result() for split in SPLITS for shard in self._shards[split]]

    def _submit(self, split: Split, closed: Iterator[ShardUnits]) -> None:
        for source, units in closed:
            written = self._shards[split]
            name = shard_name(split, self._taken.get(split, 0) + len(written))
            source_name = self._sources[source]
            self._unchecked.append(
                self._thread.submit(
                    _shard, self._workspace, split, source_name, name, units, self._arrange
                )
            )
            written.append(self._unchecked[-1])


def _documents(table: Any) -> tuple[Any, int]:
    """The documents unchanged, and the number of their tokens."""
    return table, len(document_tokens(table)[0])


def _shard(
    workspace: Workspace,
    split: Split,
    source: str,
    name: str,
    units: list[int],
    arrange: Arrange,
) -> Shard:
    """Write one shard, unless an earlier attempt has; then remove its pieces."""
    work, final = workspace.work, workspace.out / name
    record = shard_record(work, name)
    pieces = [piece_file(work, unit, split) for unit in units]
    if record.exists() and final.exists():
        shard = Shard.model_validate(read_record(record)["shard"])
    else:

        def note(made: Shard) -> None:
            content = {"shard": made.model_dump(mode="json"), "units": units}
            write_whole(record, sealed_json(content))

        shard = _join(pieces, split, source, final, note, work, arrange)
    for piece in pieces:
        piece.unlink(missing_ok=True)
    return shard


def _join(
    pieces: list[Path],
    split: Split,
    source: str,
    final: Path,
    note: Callable[[Shard], None],
    work: Path,
    arrange: Arrange,
) -> Shard:
    missing = [piece for piece in pieces if not piece.exists()]
    if missing:
        raise CorpusError(
            f"{final}: this shard was finished, but is missing now, and so are its pieces; remove "
            f"{final.parent} and prepare it again"
        )
    table, tokens = arrange(shard_file.joined([shard_file.read(piece) for piece in pieces]))
    # Under a temporary name first: the shard's record must be written before the shard gets its
    # final name, so that a shard with its final name is never written again.
    whole = work / f"{final.name}.whole"
    with whole_file(whole) as file:
        size, sha256 = shard_file.write(file, table)
    shard = Shard(
        file=final.name,
        split=split,
        documents=table.num_rows,
        tokens=tokens,
        bytes=size,
        sha256=sha256,
        source=source,
    )
    note(shard)
    try:
        whole.rename(final)
        sync_folder(final.parent)
    except OSError as error:
        raise unwritable(final, error) from None
    return shard

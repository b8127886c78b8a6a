"""`manta verify`: compares a run's record, ledger, rows and checkpoints with one another."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from manta.config.errors import RunError
from manta.record.verify_run import Saved, Verified, verify
from manta.state.checkpoint_files import Inventory, check_files, inventories, read_rows
from manta.state.skips import lost_skips
from manta.storage.place import Place
from manta.storage.run_folder import CHECKPOINTS, SKIPS, STATE

CHECKING_THREADS = 4


def verify_run(run: Place, *, shards: bool = True) -> Verified:
    """Recompute what a run claims from its config and its corpus's manifest, and compare.

    Args:
        run: the run's folder, or its URL in a store.
        shards: whether to read token shards and checkpoints too, and compare their checksums.

    Raises:
        RunError: naming the first file and step that differ, or another mismatch.
        CorpusError: naming the shards that are missing or damaged.
    """
    found = verify(run, shards=shards, saved=_saved(run / CHECKPOINTS, content=shards))
    if lost := lost_skips(run, found.state.skips):
        raise RunError(
            f"{run / SKIPS} is missing, or lacks {len(lost)} ranges of steps that the run leaves "
            "out according to its record: restore it from a copy, or continue the run with "
            "`manta train`: it restores them"
        )
    return found


def _saved(folder: Place, *, content: bool) -> Saved:
    found = inventories(folder)
    with ThreadPoolExecutor(CHECKING_THREADS) as threads:
        problems = threads.map(
            lambda name: _problem(folder / name, found[name], content=content), found
        )
    damaged = [
        f"{folder / name}: {said}" for name, said in zip(found, problems, strict=True) if said
    ]
    if damaged:
        raise RunError(
            "\n".join([*damaged, "`manta train` continues the run from an earlier checkpoint"])
        )
    marks, rows, unchecked = {}, list[Mapping[str, Any]](), []
    for name, inventory in found.items():
        assert isinstance(inventory, Inventory)
        rows += read_rows(folder / name)
        if inventory.chain:
            marks[str(folder / name / STATE)] = (inventory.state.step, inventory.chain)
        if not inventory.checksums:
            unchecked.append(f"{name}: an older version kept no checksums of its files")
    if found and not content:
        unchecked.append("the content of checkpoints: not read")
    return Saved(marks, rows, unchecked)


def _problem(checkpoint: Place, found: Inventory | str, *, content: bool) -> str | None:
    """What is wrong with a checkpoint; None if nothing is."""
    if isinstance(found, str):
        return found
    try:
        if content:
            check_files(checkpoint, found)
    except (OSError, ValueError) as error:
        return str(error)
    return None

"""A run whose beginning another run has trained: forked, not copied and not trained again.

A fork is an ordinary run folder: the parent's checkpoint, the ledger and the metrics up to it.
Resume is exact and needs nothing else, so that what trains there is an ordinary run too, which
continues from its newest checkpoint. Large files are links: a fork costs no room and no time,
and parent and child may each remove their own.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from manta.config.errors import RunError
from manta.corpus.atomic import link, sync_folder
from manta.stream.ledger import Ledger
from manta.track.history import METRICS, Tail, write_rows
from manta.track.state import Fork, read_fork, write_fork
from manta.track.tracker import LEDGER
from manta.train.saved import FOLDER, damage, name_of


def can_fork(parent: Path, step: int) -> bool:
    """Whether the checkpoint after `step` is there and whole."""
    checkpoint = parent / FOLDER / name_of(step)
    return checkpoint.is_dir() and damage(checkpoint) is None


def fork(parent: Path, step: int, tokens: int, child: Path) -> None:
    """Make `child` a run that `parent` has trained up to `step`. Harmless when called again.

    Args:
        parent: folder of a run that has a checkpoint after `step`; it may be training.
        step: number of the last step that both share.
        tokens: consumed by then.
        child: folder of the run to be; it appears whole or not at all.

    Raises:
        RunError: if there is no such checkpoint.
    """
    if child.exists():
        return
    if not can_fork(parent, step):
        raise RunError(f"{parent / FOLDER / name_of(step)}: no whole checkpoint to fork from")
    aside = child.with_name(f".{child.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    _link_tree(parent / FOLDER / name_of(step), aside / FOLDER / name_of(step))
    Ledger(parent / LEDGER).link_to(aside / LEDGER, step)
    write_rows(aside / METRICS, (r for r in Tail(parent / METRICS).rows() if r["step"] <= step))
    above = read_fork(parent)
    before = [*above.before, above.model_copy(update={"before": []})] if above else []
    write_fork(aside, Fork(run=parent.name, step=step, tokens=tokens, before=before))
    os.rename(aside, child)
    sync_folder(child.parent)


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        link(path, target / path.name)
    sync_folder(target)

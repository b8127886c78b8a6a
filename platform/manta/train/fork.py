"""A run whose beginning another run has trained: forked, not copied and not trained again.

A fork is an ordinary run folder: the parent's checkpoint, the ledger and the metrics up to it.
Resume is exact and needs nothing else, so that what trains there is an ordinary run too, which
continues from its newest checkpoint. Large files are links: a fork costs no room and no time,
and parent and child may each remove their own. In a store they are copies that the store makes
itself, and the child is there once it has ``fork.json``, which comes last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from manta.config.errors import RunError
from manta.record.checked_rows import RowReader, read_checked
from manta.record.history import kind_of
from manta.record.row_chain import Kind, Mark, RowChain
from manta.record.run_state import Fork, read_fork, read_state_if_any, write_fork
from manta.state.checkpoint_files import damage, name_of, read_state
from manta.storage.atomic import sync_folder
from manta.storage.place import Place, copy, put, tree, writing
from manta.storage.run_folder import CHECKPOINTS, CONFIG, FORK, LEDGER, METRICS, STATE
from manta.storage.working import working_folder
from manta.stream.ledger import Ledger


def can_fork(parent: Place, step: int) -> bool:
    """Whether the checkpoint after `step` is there and whole."""
    return damage(parent / CHECKPOINTS / name_of(step)) is None


def is_forked(child: Place) -> bool:
    """Whether a fork is there, whole."""
    return child.exists() if isinstance(child, Path) else (child / FORK).exists()


def fork(
    parent: Place,
    step: int,
    tokens: int,
    child: Place,
    *,
    config: str | None = None,
    changes: Sequence[str] = (),
    binding: str = "",
    other_base: str | None = None,
) -> None:
    """Make `child` a run that `parent` has trained up to `step`. Harmless when called again.

    Args:
        parent: a run that has a checkpoint after `step`; it may be training, on this node.
        step: number of the last step that both share.
        tokens: tokens consumed by then.
        child: the run to be; it appears whole or not at all.
        config: text of the config by which it goes on, for its folder; None if others keep it.
        changes: changes of the config, in words, for the record.
        binding: digest of the config and corpus by which alone it may go on; "" for any.
        other_base: fingerprint of the model whose frozen weights it holds in another format than
            the parent did, "" if it isn't known; None if they are held alike.

    Raises:
        RunError: if there is no such checkpoint.
        OSError: if storage fails.
    """
    if is_forked(child):
        return
    if not can_fork(parent, step):
        raise RunError(f"{parent / CHECKPOINTS / name_of(step)}: no whole checkpoint to fork from")
    aside = child
    if isinstance(child, Path):
        aside = child.with_name(f".{child.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
    _copy_files(parent / CHECKPOINTS / name_of(step), aside / CHECKPOINTS / name_of(step))
    Ledger(parent / LEDGER).copy_to(aside / LEDGER, step)
    if config is not None:
        put(aside / CONFIG, config.encode())
    history, problem = read_checked(
        working_folder(parent), lambda rows: _copy_rows(rows, aside / METRICS, step)
    )
    recorded = read_state_if_any(parent)
    above = recorded.fork if recorded else read_fork(parent)
    if other_base is None and above and above.held_otherwise and above.step == step:
        other_base = above.base  # the checkpoint is that of the parent's parent
    before = [*above.before, above.model_copy(update={"before": []})] if above else []
    write_fork(
        aside,
        Fork(
            run=parent.name,
            step=step,
            tokens=tokens,
            before=before,
            eval_sample=read_state(parent / CHECKPOINTS / name_of(step)).eval_sample,
            history=history.model_copy(update={"unproven": step}) if problem else history,
            changes=list(changes),
            binding=binding,
            held_otherwise=other_base is not None,
            base=other_base or "",
        ),
    )
    if isinstance(aside, Path):
        os.rename(aside, str(child))
        sync_folder(aside.parent)


def _copy_rows(reader: RowReader, target: Place, step: int) -> Mark:
    """The rows up to a step; returns the mark at their end."""
    copied, last = RowChain(), dict[Kind, int]()
    with writing(target) as file:
        for line in reader.lines():
            if line.row is not None and line.row["step"] <= step:
                file.write(line.content)
                copied.take(line.content)
                last[kind_of(line.row)] = line.row["step"]
    return copied.mark(last, min(reader.unproven, step))


def _copy_files(source: Place, target: Place) -> None:
    """All files of a checkpoint, the one that makes it whole last."""
    if isinstance(target, Path):
        target.mkdir(parents=True)
    for name in sorted(tree(source), key=lambda name: (name == STATE, name)):
        copy(source / name, target / name)
    if isinstance(target, Path):
        sync_folder(target)

"""What lies on storage as a run's checkpoints: names, whether they are whole, their state.

Light to import, so that who only looks at checkpoints, or links them into another run, needs
no Torch. Writing and loading them is `checkpoint`'s business.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta.config.errors import RunError
from manta.storage.place import Place, remove, tree
from manta.train.skips import Spans

if TYPE_CHECKING:
    from manta.train.guards import Window

log = logging.getLogger(__name__)
FOLDER = "checkpoints"
STATE = "state.json"
PREFIX = "step-"


@dataclass(frozen=True)
class TrainState:
    """Everything beside weights and optimizer that the next step depends on.

    There is no random state: it is a function of (seed, step, rank).

    Attributes:
        step: updates done.
        cursor: the next position in the sample order.
        tokens: consumed so far.
        val_loss: of this state, in nats per token, if it was evaluated.
        best_val_loss: lowest seen so far.
        evals_since_best: evaluations since then, for early stopping.
        eval_sample: digest of the samples that these losses are of; "" in older checkpoints.
        skips: steps that are passed over, as spans of step numbers, both ends included.
        window: what the guard measures spikes against: loss and gradient norm of the last
            updates. Filled in when the state is saved.
    """

    step: int = 0
    cursor: int = 0
    tokens: int = 0
    val_loss: float | None = None
    best_val_loss: float | None = None
    evals_since_best: int = 0
    eval_sample: str = ""
    skips: Spans = ()
    window: Window = ()

    def __post_init__(self) -> None:
        """From JSON, tuples come as lists."""
        object.__setattr__(self, "skips", tuple((a, b) for a, b in self.skips))
        object.__setattr__(self, "window", tuple((a, b) for a, b in self.window))


def name_of(step: int) -> str:
    """The folder name of the checkpoint after `step`."""
    return f"{PREFIX}{step:012d}"


def found_in(folder: Place) -> dict[str, dict[str, int]]:
    """The names of the checkpoints in `folder`, whole or not, and their files with sizes."""
    found: dict[str, dict[str, int]] = {}
    for path, size in sorted(tree(folder).items()):
        name, _, file = path.partition("/")
        if name.startswith(PREFIX) and file:
            found.setdefault(name, {})[file] = size
    return found


def whole(folder: Place) -> list[Place]:
    """Checkpoints in `folder` that are whole, oldest first; damaged ones are named in a warning."""
    found = []
    for name, sizes in found_in(folder).items():
        path = folder / name
        problem = _damage(path, sizes)
        if problem:
            log.warning("checkpoint %s is damaged (%s): passing over it", path, problem)
        else:
            found.append(path)
    return found


def damage(checkpoint: Place) -> str | None:
    """What is wrong with the files of a checkpoint, if anything."""
    return _damage(checkpoint, tree(checkpoint))


def _damage(checkpoint: Place, sizes: Mapping[str, int]) -> str | None:
    if STATE not in sizes:
        return f"{STATE} is missing: it was not finished, or lost a file"
    try:
        files = _read(checkpoint)["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"{STATE} can't be read: {error}"
    for name, size in files.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]} bytes instead of {size}"
    return None


def read_state(checkpoint: Place) -> TrainState:
    """The training state of a whole checkpoint."""
    return TrainState(**_read(checkpoint)["state"])


def read_stamp(checkpoint: Place) -> str:
    """A text that differs from that of any other checkpoint; none in older ones."""
    return str(_read(checkpoint).get("stamp", ""))


def _read(checkpoint: Place) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
    return content


def discard(checkpoint: Place) -> None:
    """Remove a checkpoint; it is never half there. Harmless when it is not there."""
    remove(checkpoint, STATE)


def newest(folder: Place) -> Place:
    """The newest whole checkpoint in `folder`.

    Raises:
        RunError: if there is none.
    """
    found = whole(folder)
    if not found:
        raise RunError(f"{folder}: no whole checkpoint here yet; train the run first")
    return found[-1]

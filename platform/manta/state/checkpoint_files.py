"""What lies on storage as a run's checkpoints: names, whether they are whole, their state.

Light to import, so that who only looks at checkpoints, or links them into another run, needs
no Torch. Writing and loading them is `checkpoint`'s business.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from manta.config.errors import RunError
from manta.config.metrics import VAL_LOSS
from manta.state.skips import Spans
from manta.storage.place import Place, move, put, remove, tree
from manta.storage.run_folder import METRICS, STATE
from manta.storage.seal import SEALED, sealed, unsealed
from manta.storage.store import CHUNK

log = logging.getLogger(__name__)
# Loss and gradient norm of the last updates, oldest first.
Window = tuple[tuple[float, float], ...]
PREFIX = "step-"
UNUSED = "unused-"
RESTART = (
    "put one back from a copy; or give the command again with --restart, which sets all that "
    "the run has aside and starts it anew"
)
# Of `Inventory`, what checkpoints of older versions may lack.
KEPT = ("checksums", "stamp", "binding", "chain")


@dataclass(frozen=True)
class TrainState:
    """Everything beside weights and optimizer that the next step depends on.

    There is no random state: it is a function of (seed, step, rank).

    Attributes:
        step: updates done.
        cursor: the next position in the sample order.
        tokens: tokens consumed so far.
        val_loss: validation loss of this state, in nats per token, if it was evaluated.
        measured: values of all metrics of validation, if this state was evaluated.
        best_val_loss: best seen so far of the metric `best_by`.
        evals_since_best: evaluations since then, for early stopping.
        best_by: metric that decides which state is the best.
        best_meets: whether the best state meets all bounds that are asked for.
        eval_sample: digest of the samples that these losses are of; "" in older checkpoints.
        skips: steps that are passed over, as spans of step numbers, both ends included.
        window: loss and gradient norm of the last updates, against which the guard measures
            spikes. Filled in when the state is saved.
    """

    step: int = 0
    cursor: int = 0
    tokens: int = 0
    val_loss: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    best_val_loss: float | None = None
    best_by: str = VAL_LOSS
    best_meets: bool = True
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


@dataclass(frozen=True)
class Inventory:
    """What a checkpoint's ``state.json`` says of it.

    Attributes:
        state: the state that training continues from.
        files: size in bytes of each other file, by its name.
        checksums: SHA-256 of each of them; none in checkpoints of older versions.
        stamp: differs from that of any other checkpoint; "" in older ones.
        binding: digest of the config and corpus that it was trained by; "" in older ones.
        chain: digest of the run's ledger up to it; "" in older ones.
    """

    state: TrainState
    files: Mapping[str, int]
    checksums: Mapping[str, str] = field(default_factory=dict)
    stamp: str = ""
    binding: str = ""
    chain: str = ""

    def write(self, checkpoint: Place, world_size: int) -> None:
        """Write ``state.json``, sealed."""
        content = {"format": SEALED, "world_size": world_size, **asdict(self)}
        put(checkpoint / STATE, json.dumps(sealed(content), indent=1).encode())

    @classmethod
    def read(cls, checkpoint: Place) -> Inventory:
        """Read ``state.json``.

        Raises:
            ValueError: if it is missing, or not as it was written.
        """
        try:
            content = unsealed(json.loads((checkpoint / STATE).read_bytes()))
            state = TrainState(**content.pop("state"))
            files = {str(name): int(size) for name, size in content.pop("files").items()}
            known = {key: content[key] for key in KEPT if key in content}
        except FileNotFoundError:
            raise ValueError(f"{STATE} is missing: it was not finished, or lost a file") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{STATE} can't be read: {error}") from None
        if checkpoint.name.startswith(PREFIX) and checkpoint.name != name_of(state.step):
            raise ValueError(f"{STATE} is that of step {state.step}")
        return cls(state, files, **known)


def found_in(folder: Place) -> dict[str, dict[str, int]]:
    """The names of the checkpoints in `folder`, whole or not, and their files with sizes."""
    found: dict[str, dict[str, int]] = {}
    for path, size in sorted(tree(folder).items()):
        name, _, file = path.partition("/")
        if name.startswith(PREFIX) and file:
            found.setdefault(name, {})[file] = size
    return found


def inventories(folder: Place) -> dict[str, Inventory | str]:
    """The checkpoints in `folder` by name, oldest first; for a damaged one, what is wrong.

    By names and sizes of files: what is in them is compared when it is read.
    """
    return {
        name: _inventory(folder / name, sizes) for name, sizes in sorted(found_in(folder).items())
    }


def whole(folder: Place) -> list[Place]:
    """Checkpoints in `folder` that are whole, oldest first; damaged ones are named in a warning."""
    found = []
    for name, inventory in inventories(folder).items():
        if isinstance(inventory, str):
            log.warning("checkpoint %s is damaged (%s): passing over it", folder / name, inventory)
        else:
            found.append(folder / name)
    return found


def damage(checkpoint: Place) -> str | None:
    """What is wrong with the files of a checkpoint, if anything."""
    found = _inventory(checkpoint, tree(checkpoint))
    return found if isinstance(found, str) else None


def _inventory(checkpoint: Place, sizes: Mapping[str, int]) -> Inventory | str:
    try:
        inventory = Inventory.read(checkpoint)
    except ValueError as error:
        return str(error)
    for name, size in inventory.files.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]} bytes instead of {size}"
    return inventory


def read_state(checkpoint: Place) -> TrainState:
    """The training state of a whole checkpoint."""
    return Inventory.read(checkpoint).state


def check_files(checkpoint: Place, inventory: Inventory) -> None:
    """Read a checkpoint's files and compare them with their checksums.

    Raises:
        ValueError: naming the first that was changed.
    """
    for name, checksum in inventory.checksums.items():
        with _opened(checkpoint / name) as file:
            sha256 = hashlib.sha256()
            while chunk := file.read(CHUNK):
                sha256.update(chunk)
        if sha256.hexdigest() != checksum:
            raise ValueError(f"{name} was changed: its checksum is not that of what was written")


def _opened(file: Place) -> Any:
    return file.open("rb") if isinstance(file, Path) else file.open_input()


def write_rows(folder: Place, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put metric rows beside a checkpoint, from which a lost tail of the log is refilled."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    put(folder / METRICS, text.encode())


def read_rows(folder: Place) -> list[dict[str, Any]]:
    """The rows that `write_rows` put beside a checkpoint.

    Raises:
        ValueError: if they are not as they were written.
    """
    try:
        lines = (folder / METRICS).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def discard(checkpoint: Place) -> None:
    """Remove a checkpoint; it is never half there. Harmless when it is not there."""
    remove(checkpoint, STATE)


def set_aside(checkpoint: Place) -> None:
    """Give a checkpoint that can't be gone on from a name by which nothing finds it."""
    target = checkpoint.parent / f"{UNUSED}{checkpoint.name}"
    remove(target, STATE)
    move(checkpoint, target)


def newest(folder: Place) -> Place:
    """The newest whole checkpoint in `folder`.

    Raises:
        RunError: if there is none.
    """
    found = whole(folder)
    if not found:
        raise RunError(f"{folder}: no whole checkpoint here yet; train the run first")
    return found[-1]

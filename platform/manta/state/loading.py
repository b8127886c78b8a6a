"""Loading a checkpoint: all of it as it was written, or none.

Torch reads tensors straight into model and optimizer, for which there is no second room on a
device. Beside it, threads read each file once and compare it with its checksum. Only if nothing
is wrong on any rank does the checkpoint count as loaded; else what the rank holds is void, and
the next checkpoint replaces all of it, or the run stops.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from manta.config.errors import RunError
from manta.optimizer.averaging import AVERAGE
from manta.state.checkpoint_files import Inventory
from manta.state.dcp import Planner, Reader
from manta.state.trained import Trained
from manta.storage.place import Place

CHECKING_THREADS = 4
# Name of the fingerprint of the base in a checkpoint.
BASE = "base"
# What went wrong on this rank → what went wrong on any.
Settle = Callable[[str | None], str | None]


def content_of(trained: Trained) -> dict[str, Any]:
    """All that a checkpoint saves of what is trained, as it stands there."""
    options = StateDictOptions(ignore_frozen_params=trained.base is not None)
    model, optimizer = get_state_dict(trained.lm, trained.optimizer, options=options)
    content: dict[str, Any] = {"model": model, "optimizer": optimizer}
    if trained.base is not None:
        content[BASE] = torch.tensor(trained.base)
    if trained.scaler is not None:
        content["scaler"] = trained.scaler.state_dict()
    return content


def load(
    checkpoint: Place,
    trained: Trained,
    inventory: Inventory | None = None,
    settle: Settle = lambda problem: problem,
) -> None:
    """Load model and optimizer from a checkpoint made at any world size, in place.

    All ranks must call together, and end alike.

    Args:
        checkpoint: the checkpoint's folder.
        trained: must not train before a checkpoint is loaded, if this fails.
        inventory: the checkpoint's inventory; read from its folder if None.
        settle: tells all ranks what went wrong on one of them.

    Raises:
        RunError: saying what is wrong with the checkpoint.
    """
    inventory = inventory or _inventory_of(checkpoint)
    content = content_of(trained)
    # Rates, decays and the like are the config's, which a fork may have changed.
    groups = content["optimizer"].pop("param_groups")
    _fill(content, checkpoint, inventory, settle, trained.ranks.rank, trained.ranks.world_size)
    content["optimizer"]["param_groups"] = groups

    def take() -> None:
        if trained.base is not None and not trained.any_base:
            check_base(int(content[BASE]), trained.base)
        set_state_dict(
            trained.lm,
            trained.optimizer,
            model_state_dict=content["model"],
            optim_state_dict=content["optimizer"],
            # Strict, it would ask for frozen weights. `_fill` has filled all others.
            options=StateDictOptions(strict=trained.base is None),
        )
        trained.weights_changed()
        if trained.scaler is not None:
            trained.scaler.load_state_dict(content["scaler"])

    _refuse(settle(_problem(take)))


def check_base(saved: int, found: int) -> None:
    """Refuse a state that was trained beside other frozen weights than the model has.

    Args:
        saved: fingerprint of the frozen weights that the state was trained beside.
        found: fingerprint of those that the model has.

    Raises:
        RunError: with the remedy.
    """
    if saved != found:
        raise RunError(
            f"the frozen weights have changed: their fingerprint is {found:016x}, and the state "
            f"was trained beside {saved:016x}; restore what model.pretrained was, or begin anew"
        )


def load_model(
    checkpoint: Place, lm: nn.Module, base: int | None = None, *, average: bool = False
) -> None:
    """Load the weights alone into an unsharded model, in this one process.

    Args:
        checkpoint: the checkpoint's folder.
        lm: the model.
        base: fingerprint of its base, the frozen weights, if these are not saved.
        average: whether the model gets the average of the weights, which the checkpoint must have.

    Raises:
        RunError: if the checkpoint can't be loaded, or was trained beside other frozen weights.
    """
    options = StateDictOptions(ignore_frozen_params=base is not None)
    content: dict[str, Any] = {"model": get_model_state_dict(lm, options=options)}
    averages = {
        name: {AVERAGE: torch.empty_like(weight)}
        for name, weight in lm.named_parameters()
        if average and weight.requires_grad
    }
    if averages:
        content["optimizer"] = {"state": averages}
    if base is not None:
        content[BASE] = torch.tensor(base)
    try:
        _fill(content, checkpoint, _inventory_of(checkpoint), lambda problem: problem)
    except RunError as error:
        raise RunError(f"{checkpoint}: can't be loaded: {error}; take another checkpoint") from None
    if base is not None:
        check_base(int(content[BASE]), base)
    names = {id(weight): name for name, weight in lm.named_parameters()}
    own = {
        name: averages[names[id(weight)]][AVERAGE]
        for name, weight in lm.named_parameters(remove_duplicate=False)  # of tied ones, each name
        if names[id(weight)] in averages
    }
    lm.load_state_dict({**content["model"], **own}, strict=base is None)


def _inventory_of(checkpoint: Place) -> Inventory:
    try:
        return Inventory.read(checkpoint)
    except ValueError as error:
        raise RunError(str(error)) from None


def _fill(
    content: dict[str, Any],
    checkpoint: Place,
    inventory: Inventory,
    settle: Settle,
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Fill the tensors of `content`, on each rank, and see that the files are as written."""
    reader = Reader(checkpoint, inventory.stamp, inventory.checksums)
    # First of all and on all ranks: Torch's ranks don't part well where one can't read it.
    _refuse(settle(_problem(reader.read_metadata)))
    with ThreadPoolExecutor(CHECKING_THREADS, "manta-checksums") as threads:
        # Each rank checks its share: together they have read every byte once.
        checks = threads.map(
            lambda name: _problem(lambda: reader.check(name)),
            sorted(inventory.checksums)[rank::ranks],
        )
        problem = _problem(lambda: _read(content, reader, alone=ranks == 1))
        # A checksum says more than what a changed file made Torch stumble over.
        problem = next((found for found in checks if found), problem)
    _refuse(settle(problem))


def _read(content: dict[str, Any], reader: Reader, *, alone: bool) -> None:
    with quiet_alone():
        state_dict_loader.load(content, storage_reader=reader, planner=Planner(), no_dist=alone)


def _problem(act: Callable[[], object]) -> str | None:
    try:
        act()
    except (Exception, CheckpointException) as error:  # a damaged file raises nearly anything
        return reason(error)
    return None


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise RunError(problem)


def reason(error: BaseException) -> str:
    """Why a save or load failed, in one line; Torch collects the failures of all ranks."""
    if isinstance(error, CheckpointException) and error.failures:
        error = min(error.failures.items())[1][0]
    text = str(error).splitlines()[0] if str(error) else ""
    known = isinstance(error, (RunError, ValueError)) and text
    return text if known else f"{type(error).__name__}: {text}"


@contextmanager
def quiet_alone() -> Iterator[None]:
    """Torch warns of a save or load in a single process; here it is meant so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield

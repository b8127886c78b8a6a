"""What an objective is to the engine: terms that are sums over samples, and their weights.

The law that makes an objective exact: each term is a sum over samples, and its weight is a sum over
samples that is known before the forward pass. The loss is each term's sum over the whole global
batch, divided by its weight over the whole global batch, times its coefficient. It can't depend on
how rows are laid over ranks and forward passes, then. `manta.testing.check_objective` tries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from manta.sample.columns import Columns


@dataclass(frozen=True)
class Term:
    """One sum of an objective.

    Attributes:
        name: the term's name in metrics rows.
        coefficient: factor of its mean in the loss that is trained on; 0 if it is only shown.
        auxiliary: whether the term is trained on, but left out of `loss` and `val_loss`, which stay
            comparable whatever its coefficient.
        shown: whether the term's mean is in metrics rows; one that is not is there for `figures`.
        is_loss: whether `loss` and `val_loss` are the term's mean although its coefficient is 0:
            where all that is trained on is auxiliary.
    """

    name: str
    coefficient: float = 1.0
    auxiliary: bool = False
    shown: bool = True
    is_loss: bool = False

    @property
    def shown_factor(self) -> float:
        """Factor of its mean in `loss` and `val_loss`."""
        if self.is_loss:
            return 1.0
        return 0.0 if self.auxiliary else self.coefficient


class FrozenModel:
    """A language model that an objective compares with, whose weights are never updated.

    No module by itself: a module that holds it has none of its weights, so that they are in no
    optimizer, exchange or checkpoint, and `train` does not reach them.

    Attributes:
        lm: the model, in eval mode; no weight of it requires a gradient.
    """

    def __init__(self, lm: nn.Module):
        self.lm = lm.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, **inputs: Any) -> Any:
        """What the model returns, such as `logits`; as Transformers' models are called."""
        return self.lm(**inputs)


@dataclass(frozen=True)
class Models:
    """The models that an objective may call.

    Attributes:
        trained: the one whose weights are updated.
        frozen: the one to compare with, which the config names; None if it names none.
    """

    trained: nn.Module
    frozen: FrozenModel | None = None


class DeviceRows(Protocol):
    """A rank's rows of a step on its device."""

    def __len__(self) -> int:
        """Rows there are."""
        ...

    def rows(self, rows: slice, width: int = 1) -> Sequence[Any]:
        """Arguments of the module for some rows, and for as many blank ones as `width` asks for.

        A blank row adds nothing to any term or its gradient. It gives a forward pass the shape that
        others have, and a rank without rows something to join the collectives with.
        """
        ...


class Objective(Protocol):
    """What is summed over the samples of a step, and by what it is divided.

    It may have a method ``figures(means) -> dict[str, float]`` too: what is shown beside the terms
    and follows from their means, all in order, though it is no sum over samples itself.

    Attributes:
        columns: names of what it reads of a sample.
        terms: the objective's terms, in the order of the sums.
    """

    columns: frozenset[str]
    terms: tuple[Term, ...]

    def module(self, models: Models) -> nn.Module:
        """What is laid over ranks; called with rows of `inputs`, it sums: shape (terms,)."""
        ...

    def inputs(self, batch: Columns, device: torch.device) -> DeviceRows:
        """A rank's samples as the module takes them."""
        ...

    def weights(self, inputs: DeviceRows) -> Tensor:
        """What each term is divided by, as far as these rows go, shape (terms,).

        Counted before the forward pass. Summed over ranks, they divide; integers sum exactly.
        """
        ...

"""What is known of a model that was tried. Light: it travels to processes without Torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tried:
    """A model that was found fit.

    Attributes:
        weights: number of parameters.
        trained: number of those that are trained.
        whole: whether the trial ran to its end. If not, no small model of its kind can be made,
            and the first worker that builds the model itself examines it.
        remarks: notes on training the model, one sentence each.
    """

    weights: int
    trained: int
    whole: bool
    remarks: tuple[str, ...] = ()

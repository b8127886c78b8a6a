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
        quantized: number of frozen weights that are held in 4 or 8 bits.
        frozen_bytes: bytes of all frozen weights as they are held; known if some are quantized.
    """

    weights: int
    trained: int
    whole: bool
    remarks: tuple[str, ...] = ()
    quantized: int = 0
    frozen_bytes: int = 0

"""What is known of a model that was tried. Light: it travels to processes without Torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tried:
    """A model that was found fit.

    Attributes:
        weights: how many it has.
        whole: whether it was tried to the end. Else no small model of its kind can be made, and the
            model itself is examined where it is made first.
        remarks: what there is to say of training it, one sentence each.
    """

    weights: int
    whole: bool
    remarks: tuple[str, ...] = ()

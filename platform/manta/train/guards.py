"""Bad values are kept from the weights: each step is judged before its update.

The judgement is made on the device, so that no step waits for the host, and from numbers
that are the same on every rank, so that all ranks judge alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manta.config.run import GuardsSection
from manta.state.checkpoint_files import Window
from manta.train.arriving import Arriving

# Of the window, before spikes are looked for: the median of a few values says little.
SHARE_NEEDED, FEWEST_NEEDED = 0.5, 8
# The median absolute deviation of a normal distribution is its standard deviation / 1.4826.
MAD_TO_DEVIATION = 1.4826
# Of the median of loss and of gradient norm, added to their deviations. Where losses barely vary,
# noise is no spike. A healthy run has gradients of several times the usual norm now and then (up
# to 3.5 in 400 steps of a tiny model, 20 deviations), which clipping deals with.
FLOORS = (0.01, 0.5)
MOST_UNREAD = 256

Kind = Literal["nonfinite", "spike"]
KINDS: dict[int, Kind] = {1: "nonfinite", 2: "spike"}


class Rewind(Exception):
    """The run has to start again before step `first`; it then skips the steps [first, last].

    All ranks raise it at the same step, once what a restarted group needs is on storage.
    """

    def __init__(self, first: int, last: int, reason: str):
        super().__init__(first, last, reason)
        self.first, self.last, self.reason = first, last, reason

    def __str__(self) -> str:
        return f"going back before step {self.first}: {self.reason}"


@dataclass(frozen=True)
class Verdict:
    """A bad step.

    Attributes:
        step: number of the step, from 1.
        kind: the fault: not finite, or a spike.
        action: the config's action for this fault.
        scores: robust z-scores of loss and gradient norm, for a spike.
    """

    step: int
    kind: Kind
    action: Literal["stop", "skip", "rewind"]
    scores: tuple[float, float]

    def __str__(self) -> str:
        if self.kind == "nonfinite":
            return "loss or gradient is not finite"
        return f"loss or gradient spikes (z-scores {self.scores[0]:.1f} and {self.scores[1]:.1f})"


class Guard:
    """Judges each step and drops the update of a bad one.

    After a bad step that is not just skipped, every update is dropped, until the host has
    looked at `judgements` and acted.

    The window holds loss and gradient norm of the last updates that were applied. It is a
    function of the training so far, and part of its state.
    """

    def __init__(self, section: GuardsSection, device: torch.device):
        self._section, self._device = section, device
        self.judges_spikes = section.spike != "off"
        self._floors = torch.tensor(FLOORS, dtype=torch.float64, device=device)
        self._no_scores = torch.zeros(2, dtype=torch.float64, device=device)
        self.restore(())

    def restore(self, window: Window) -> None:
        """Begin anew with the content of a window, oldest first."""
        self._window = torch.full((2, self._section.window), torch.nan, dtype=torch.float64)
        if window:
            kept = torch.tensor(window[-self._section.window :], dtype=torch.float64).T
            self._window[:, -kept.shape[1] :] = kept
        self._window = self._window.to(self._device)
        self._halted = torch.zeros((), dtype=torch.bool, device=self._device)
        self._unread: list[tuple[int, Tensor]] = []

    @property
    def window(self) -> Window:
        """The content of the window, oldest first. Waits for the device."""
        rows = self._window.T.tolist() if self.judges_spikes else []
        return tuple((loss, norm) for loss, norm in rows if norm == norm)

    def observe(self, step: int, values: Tensor) -> Tensor:
        """Judge a step.

        Args:
            step: number of the step, from 1.
            values: loss and gradient norm, the same on every rank, float64 (2,). A loss that
                is not finite has made the norm so.

        Returns:
            1.0 if the update must be dropped, else 0.0; float32 scalar on the device.
        """
        section = self._section
        broken = ~torch.isfinite(values[1])
        spike, scores = torch.zeros_like(broken), self._no_scores
        if self.judges_spikes:
            scores = self._scores(values)
            spike = ~broken & (scores > section.threshold).any()
        kind = (broken.double() + 2 * spike.double()) * ~self._halted
        self._unread.append((step, torch.cat([kind[None], scores])))
        dropped = broken | spike | self._halted
        if section.nonfinite != "skip":
            self._halted = self._halted | broken
        if section.spike != "skip":
            self._halted = self._halted | spike
        if self.judges_spikes:
            moved = torch.cat([self._window[:, 1:], values[:, None]], dim=1)
            self._window = torch.where(dropped, self._window, moved)
        return dropped.float()

    def _scores(self, values: Tensor) -> Tensor:
        """Robust z-scores, (2,): how far above the window's median. 0 while it holds too few."""
        median = self._window.nanmedian(dim=1).values
        spread = (self._window - median[:, None]).abs().nanmedian(dim=1).values
        scores = (values - median) / (
            MAD_TO_DEVIATION * spread + self._floors * median.abs() + 1e-12
        )
        needed = max(FEWEST_NEEDED, SHARE_NEEDED * self._section.window)
        enough = (~self._window[0].isnan()).sum() >= needed
        return torch.where(enough, scores, self._no_scores)

    @property
    def wants_reading(self) -> bool:
        """Whether so many steps are unread that the host should look."""
        return len(self._unread) >= MOST_UNREAD

    def judgements(self) -> Judgements:
        """What was observed since the last call, on its way to the host."""
        unread, self._unread = self._unread, []
        return Judgements(self._section, unread)


class Judgements:
    """What a guard found at some steps, for when the host wants to know."""

    def __init__(self, section: GuardsSection, judged: list[tuple[int, Tensor]]):
        self._section, self._steps = section, [step for step, _ in judged]
        values = [judgement for _, judgement in judged]
        self._values = Arriving(torch.stack(values)) if values else None

    def verdicts(self) -> list[Verdict]:
        """The bad steps among them, up to the first that is not just skipped.

        Waits for the last of these steps, and for none after it.
        """
        judged = self._values.read() if self._values else []
        return [
            self._verdict(step, KINDS[int(kind)], (loss, norm))
            for step, (kind, loss, norm) in zip(self._steps, judged, strict=True)
            if kind
        ]

    def _verdict(self, step: int, kind: Kind, scores: tuple[float, float]) -> Verdict:
        action = self._section.nonfinite if kind == "nonfinite" else self._section.spike
        assert action != "off"
        return Verdict(step, kind, action, scores)

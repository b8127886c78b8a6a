"""Losses of preferences: what each pair of answers adds, from the log-probabilities of both.

With y_c the chosen answer and y_r the rejected one, π the policy and ρ the reference, log π(y) is
the sum over the supervised tokens of y, and |y| their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manta.config.objective import PairLossName


@dataclass(frozen=True)
class Answers:
    """The answers of pairs, the chosen ones at [..., 0] and the rejected ones at [..., 1].

    Attributes:
        policy: log-probability of each answer in nats, float64 (..., 2).
        reference: the same by the reference, (..., 2); None for a loss without one.
        lengths: how many supervised tokens each has, at least 1, (..., 2).
    """

    policy: Tensor
    reference: Tensor | None
    lengths: Tensor

    @property
    def ratio(self) -> Tensor:
        """The log of π(y) / ρ(y), (..., 2)."""
        assert self.reference is not None
        return self.policy - self.reference

    @property
    def by_token(self) -> Tensor:
        """The mean log-probability of each answer's tokens, (..., 2)."""
        return self.policy / self.lengths


@dataclass(frozen=True)
class Settings:
    """What a loss is set to: β, the label smoothing ε of dpo, and the margin γ of simpo."""

    beta: float
    label_smoothing: float = 0.0
    gamma: float = 0.0


@dataclass(frozen=True)
class PairLoss:
    """One of the losses.

    Attributes:
        terms: names of what is summed.
        sums: makes the terms of each pair, (..., terms), and the reward of each answer, (..., 2).
        compares: whether a reference is needed.
    """

    terms: tuple[str, ...]
    sums: Callable[[Answers, Settings], tuple[Tensor, Tensor]]
    compares: bool = False


def difference(values: Tensor) -> Tensor:
    """By how much that of the chosen answer is above that of the rejected one, (...)."""
    return values[..., 0] - values[..., 1]


def dpo(answers: Answers, settings: Settings) -> tuple[Tensor, Tensor]:
    """Direct preference optimization (Rafailov et al., 2023, equation 7).

    -log σ(m), where m is the difference of the rewards β log π(y) / ρ(y). With label smoothing
    (conservative DPO: Mitchell, 2023) labels are taken to be wrong with probability ε:
    -(1 - ε) log σ(m) - ε log σ(-m).
    """
    rewards, smoothing = settings.beta * answers.ratio, settings.label_smoothing
    margin = difference(rewards)
    loss = -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
    return loss[..., None], rewards


def ipo(answers: Answers, settings: Settings) -> tuple[Tensor, Tensor]:
    """Identity preference optimization (Azar et al., 2023, equation 17, where β is called τ).

    (h - 1 / 2β)², where h is the difference of log π(y) / ρ(y), as a mean over the tokens of each
    answer: as its authors compute it, so that it does not depend on the lengths.
    """
    distance = difference(answers.ratio / answers.lengths) - 1 / (2 * settings.beta)
    return (distance**2)[..., None], settings.beta * answers.ratio


def simpo(answers: Answers, settings: Settings) -> tuple[Tensor, Tensor]:
    """Simple preference optimization (Meng et al., 2024, equation 6), without a reference.

    -log σ(m - γ), where m is the difference of the rewards β log π(y) / |y|.
    """
    rewards = settings.beta * answers.by_token
    loss = -F.logsigmoid(difference(rewards) - settings.gamma)
    return loss[..., None], rewards


def orpo(answers: Answers, settings: Settings) -> tuple[Tensor, Tensor]:
    """Odds ratio preference optimization (Hong et al., 2024, equations 6 and 7), no reference.

    The likelihood -log π(y_c) / |y_c|, and the odds ratio -log σ(m), where m is the difference of
    the rewards log p / (1 - p) with p = exp(log π(y) / |y|). β, called λ there, is the odds ratio's
    coefficient.
    """
    by_token = answers.by_token
    odds = by_token - torch.log(-torch.expm1(by_token))
    return torch.stack([-by_token[..., 0], -F.logsigmoid(difference(odds))], -1), odds


LOSSES: dict[PairLossName, PairLoss] = {
    "dpo": PairLoss(("dpo",), dpo, compares=True),
    "ipo": PairLoss(("ipo",), ipo, compares=True),
    "simpo": PairLoss(("simpo",), simpo),
    "orpo": PairLoss(("likelihood", "odds_ratio"), orpo),
}

"""What is exact passes; each kind that is not is refused with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_batches import documents, llama
from torch import Tensor, nn

from manta.objective.causal import Causal
from manta.objective.protocol import Term
from manta.testing import NotExactError, check_objective

SAMPLES, FEATURES = 7, 5


@dataclass(frozen=True)
class Rows:
    x: Tensor
    y: Tensor
    real: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, rows: slice, width: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        blank = max(0, width - len(self.x[rows]))
        x, y = F.pad(self.x[rows], (0, 0, 0, blank)), F.pad(self.y[rows], (0, blank))
        return x, y, F.pad(self.real[rows], (0, blank))


class Squares:
    """Weighted least squares: exact. Others below change one thing in it."""

    columns = frozenset({"x", "y", "w"})
    terms = (Term("squares"),)

    def module(self, models):
        return Summed(models.trained, self.summed)

    def inputs(self, batch, device):
        return Rows(*(torch.from_numpy(batch[name]) for name in ("x", "y", "w")))

    def weights(self, inputs):
        return inputs.real.sum().reshape(1)

    def summed(self, out: Tensor, y: Tensor, real: Tensor) -> Tensor:
        return ((out - y).square() * real).sum()


class Summed(nn.Module):
    def __init__(self, net, summed):
        super().__init__()
        self.net, self._summed = net, summed

    def forward(self, x, y, real):
        return self._summed(self.net(x).squeeze(-1), y, real).reshape(1)


class MeanOfMeans(Squares):
    def summed(self, out, y, real):
        return super().summed(out, y, real) / real.sum().clamp(min=1e-9)

    def weights(self, inputs):
        return torch.ones(1) if len(inputs) == SAMPLES else torch.full((1,), len(inputs) / SAMPLES)


class OverTheBatch(Squares):
    """As a balance of whole batches: the square of a mean over the rows of a pass, times rows."""

    def summed(self, out, y, real):
        return (out * real).sum().square() / real.sum().clamp(min=1e-9)


class SplitWeight(Squares):
    def weights(self, inputs):
        return torch.full((1,), float(len(inputs)) ** 2)


class BlankRowsCount(Squares):
    def summed(self, out, y, real):
        return super().summed(out, y, real) + (out - y).square().sum() * 1e-2


class Noise(Squares):
    def summed(self, out, y, real):
        return super().summed(out + torch.randn_like(out), y, real)


class NoRows(Squares):
    def summed(self, out, y, real):
        assert len(out)
        return super().summed(out, y, real)

    def inputs(self, batch, device):
        rows = super().inputs(batch, device)
        return Unpadded(rows.x, rows.y, rows.real) if not len(rows) else rows


class Unpadded(Rows):
    def rows(self, rows, width=1):
        return self.x[rows], self.y[rows], self.real[rows]


class Detached(Squares):
    """The sum is right, but where a pass has one row, its gradient is lost."""

    def summed(self, out, y, real):
        return super().summed(out.detach() if len(out) == 1 else out, y, real)


def net(norm=None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 8), norm or nn.Tanh(), nn.Linear(8, 1))


def numbers():
    drawn = np.random.default_rng(0)
    return {
        "x": drawn.normal(size=(SAMPLES, FEATURES)),
        "y": drawn.normal(size=SAMPLES),
        "w": drawn.integers(1, 9, SAMPLES).astype(np.float64),
    }


class Frozen(nn.BatchNorm1d):
    """Batch norm by its running statistics alone, in training too."""

    def train(self, mode=True):
        return super().train(False)


@pytest.mark.parametrize("middle", [nn.Tanh(), nn.GroupNorm(2, 8), Frozen(8), nn.Dropout(0.5)])
def test_a_sum_over_samples_is_exact(middle) -> None:
    check_objective(Squares(), net(middle), numbers())


@pytest.mark.parametrize(
    ("objective", "model", "reason"),
    [
        (Squares(), net(nn.BatchNorm1d(8)), "batch norm in training"),
        (MeanOfMeans(), net(), "a mean over the rows of a forward pass"),
        (OverTheBatch(), net(), "depends on the other rows"),
        (SplitWeight(), net(), "a weight that depends on the split"),
        (BlankRowsCount(), net(), "counts blank rows"),
        (Noise(), net(), "draws random numbers"),
        (NoRows(), net(), "a rank without rows"),
        (Detached(), net(), "its gradient differs"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Squares) else None,
)
def test_what_depends_on_the_split_is_refused_with_its_reason(objective, model, reason) -> None:
    with pytest.raises(NotExactError, match=reason):
        check_objective(objective, model, numbers())


@pytest.mark.parametrize("document_mask", [False, True])
def test_causal_is_exact(document_mask) -> None:
    check_objective(Causal(document_mask=document_mask), llama(), documents())


def test_a_mean_over_labels_of_a_pass_is_what_the_check_is_for() -> None:
    """The mistake of many trainers: the loss of a Hugging Face model as it is."""

    class Means(Causal):
        def module(self, models):
            return Mean(super().module(models))

    class Mean(nn.Module):
        def __init__(self, summed):
            super().__init__()
            self.summed = summed

        def forward(self, tokens, labels, positions):
            return self.summed(tokens, labels, positions) / (labels >= 0).sum().clamp(min=1)

    with pytest.raises(NotExactError, match="a mean over the rows"):
        check_objective(Means(document_mask=True), llama(), documents())

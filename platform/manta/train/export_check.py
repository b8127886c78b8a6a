"""An exported model is loaded again and compared with the run's before it gets its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from manta.config.errors import RunError
from manta.model.forward import options_of
from manta.model.model_class import from_pretrained, head_of

# The rows that are compared, of tokens drawn at random: those of a seed are the same everywhere.
ROWS, LENGTH = 4, 64
# Of the largest logit. An adapter that is merged in float32 moves logits by some 1e-6 of it.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportDifference:
    """How an exported model differs from the run's, in evaluation, over some rows of tokens.

    Attributes:
        logit: largest difference of a logit, as a share of the largest logit.
        kl: mean Kullback–Leibler divergence of the next token's distribution, in nats.
    """

    logit: float
    kl: float

    def __str__(self) -> str:
        return (
            f"logits differ by {self.logit:.1e} of the largest at most, "
            f"KL divergence {max(self.kl, 0):.1e} nats"
        )


@torch.no_grad()
def compare(lm: PreTrainedModel, folder: Path) -> ExportDifference:
    """Load the model in `folder` as its users will, and compare it with the run's.

    Args:
        lm: the run's model, with its adapter if it has one; float32, on the CPU.
        folder: exported model, or adapter that names its base.

    Raises:
        RunError: if it differs by more than rounding does.
    """
    found = _difference(lm, _loaded(lm, folder))
    if not found.logit <= TOLERANCE:
        raise RunError(
            f"the exported model differs from the run's: logits by {found.logit:.1e} of the "
            f"largest, and rounding explains {TOLERANCE:g}; nothing was written. If "
            "model.pretrained names another model by now, restore it; if model.frozen_dtype: bf16 "
            "has rounded it, export with --merge"
        )
    return found


@torch.no_grad()
def of_another_base(trained: PreTrainedModel, written: PreTrainedModel) -> ExportDifference:
    """How the model that is written differs from the one that was trained beside a rounded base."""
    return _difference(trained, written)


def _difference(lm: PreTrainedModel, other: PreTrainedModel) -> ExportDifference:
    length = min(LENGTH, getattr(lm.config.get_text_config(), "max_position_embeddings", LENGTH))
    generator = torch.Generator().manual_seed(0)
    vocabulary = lm.get_input_embeddings().weight.shape[0]
    rows = torch.randint(vocabulary, (ROWS, max(length, 1)), generator=generator)
    expected, found = _logits(lm, rows), _logits(other, rows)
    logit = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    ours, theirs = (F.log_softmax(logits, -1) for logits in (expected, found))
    return ExportDifference(logit, float((ours.exp() * (ours - theirs)).sum(-1).mean()))


def _loaded(lm: PreTrainedModel, folder: Path) -> PreTrainedModel:
    if head_of(lm) is not None:  # scores of every token, as the run's gives them
        return from_pretrained(str(folder), lm.config)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded


def _logits(lm: PreTrainedModel, rows: Tensor) -> Tensor:
    logits: Tensor = lm.eval()(input_ids=rows, **options_of(lm)).logits
    return logits.double()

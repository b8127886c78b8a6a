"""What a language model makes of documents: the loss of each, and its mean hidden state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manta.config.errors import RunError
from manta.config.evaluation import EvaluationConfig
from manta.evaluate.model_at_hand import ModelAtHand
from manta.evaluate.ticking import ticking
from manta.govern.drawn_documents import Tokens
from manta.model.forward import options_of
from manta.storage.place import Place

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UnderModel:
    """What a model makes of documents.

    Attributes:
        nats: sum of the losses of each document's tokens after the first, (documents,).
        counts: number of these tokens, (documents,).
        states: mean over tokens of the last hidden state, (documents, width).
    """

    nats: Floats
    counts: Floats
    states: Floats

    @property
    def losses(self) -> Floats:
        """Mean loss of each document, in nats a token; 0 for one of a single token."""
        return self.nats / np.maximum(self.counts, 1)


def model_for_drift(where: Place, step: int | None, device: str) -> ModelAtHand:
    """A language model in float32.

    Raises:
        RunError: if there is none, or it writes no text.
    """
    config = EvaluationConfig.model_validate(
        {"name": "drift", "splits": {"new": {}}, "device": device, "precision": "no"}
    )
    model = ModelAtHand(where, step, config)
    if not model.writes:
        raise RunError(
            f"{where}: its model gives scores, not tokens: set language_model to one that "
            "writes, or give a corpus with --against"
        )
    return model


@torch.inference_mode()
def under_model(
    model: ModelAtHand, documents: Sequence[Tokens], length: int, tell: Callable[[str], None]
) -> UnderModel:
    """Losses and hidden states of documents, one by one.

    Args:
        model: the model.
        documents: tokens of each document.
        length: most tokens of a document that are looked at.
        tell: takes lines for people.
    """
    most = min(length, model.longest) if model.longest else length
    nats, counts, states = list[float](), list[int](), list[Any]()
    for tokens in ticking(list(documents), "documents", tell):
        ids = torch.tensor([tokens[:most].astype(np.int64).tolist()], device=model.device)
        found = model.lm(input_ids=ids, output_hidden_states=True, **options_of(model.lm))
        losses = torch.nn.functional.cross_entropy(
            found.logits[0, :-1].float(), ids[0, 1:], reduction="none"
        )
        nats.append(float(losses.double().sum()))
        counts.append(len(losses))
        states.append(found.hidden_states[-1][0].double().mean(0).cpu().numpy())
    return UnderModel(np.array(nats), np.array(counts, np.float64), np.stack(states))

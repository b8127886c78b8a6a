"""Support of a claim by its context, judged by a classifier of entailment (NLI)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from manta.config.errors import ConfigError

ENTAILS, NOT = "entail", ("not", "non")


class Entailment:
    """A classifier of pairs of texts, one of whose classes is entailment.

    Args:
        name: folder of Transformers, or name on the Hub.
        key: dotted key of the name, for messages.

    Raises:
        ConfigError: if there is no such classifier.
    """

    def __init__(self, name: str, key: str):
        self.name = name
        try:
            labels = AutoConfig.from_pretrained(name).id2label
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())
            raise ConfigError(f"{key} = '{name}': can't be loaded: {said}") from None
        found = [int(index) for index, label in labels.items() if _is_entailment(label)]
        if len(found) != 1:
            raise ConfigError(
                f"{key} = '{name}': none of its classes ({', '.join(labels.values())}) is called "
                "entailment: take a classifier of natural language inference"
            )
        self._class = found[0]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        model = AutoModelForSequenceClassification.from_pretrained(self.name, dtype=torch.float32)
        return model.eval(), AutoTokenizer.from_pretrained(self.name)

    @torch.inference_mode()
    def probability(self, context: str, claim: str) -> float:
        """The probability that the context entails the claim; a long context is cut at its end."""
        model, tokenizer = self._loaded
        longest = getattr(model.config, "max_position_embeddings", None)
        pair = tokenizer(
            context, claim, truncation="only_first", max_length=longest, return_tensors="pt"
        )
        return float(model(**pair).logits[0].softmax(-1)[self._class])


def _is_entailment(label: str) -> bool:
    word = label.lower()
    return word.startswith(ENTAILS) or (ENTAILS in word and not word.startswith(NOT))

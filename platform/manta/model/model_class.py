"""Which class of Transformers a run's model is: a language model, or one with a head for scores.

The resolved config says it, by `problem_type`, which Transformers has for this: so does the
config.json of an exported model.

A model with a head gives scores of every token here. The forward pass of its class picks one token
a row by looking for padding among the ids, which takes another one where padding is a token that
also ends texts, and none at all where a row holds several texts. Which token counts is told by
position, by who calls the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from manta.config.errors import ConfigError
from manta.config.objective import SCORES
from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.model.forward import options_of
from manta.model.own_net import OwnNet

CLASSES, NUMBER = "single_label_classification", "regression"
# What classes of Transformers with a head are called, and where its scores come from.
HEADED, HEAD = "ForSequenceClassification", "score"


def take_head(resolved: PretrainedConfig, config: RunConfig, vocabulary: Vocabulary) -> None:
    """Have a resolved config say what head the run's objective needs, if any.

    Raises:
        ConfigError: if models of this type can't have one, or a pretrained model has another one.
    """
    objective, pretrained = config.objective.type, config.model.pretrained
    headed = names_head(resolved)
    if objective not in SCORES:
        if headed:
            raise ConfigError(
                f"model.pretrained = {pretrained!r}: it scores texts, and has no output layer for "
                "tokens any more: take a language model, or objective.type: classify or regression"
            )
        return
    if resolved.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise ConfigError(
            f"objective.type = '{objective}': Transformers has no class with a head for scores for "
            f"{resolved.model_type}; take another model.type, such as llama, qwen3 or gpt2"
        )
    names = vocabulary.classes if objective == "classify" else None
    before = [resolved.id2label[number] for number in sorted(resolved.id2label or {})]
    wanted = ["LABEL_0"] if names is None else list(names)
    if headed and before != wanted:
        raise ConfigError(
            f"model.pretrained = {pretrained!r}: its head is for {len(before)} scores "
            f"({', '.join(before[:5])}), the run's for {len(wanted)} ({', '.join(wanted[:5])}): "
            "start from a language model, or from one that was trained on the same classes"
        )
    resolved.problem_type = NUMBER if names is None else CLASSES
    resolved.id2label = dict(enumerate(wanted))
    resolved.label2id = {name: number for number, name in enumerate(wanted)}
    # Only for who loads the exported model and lets its class pick the token: nothing here does.
    # By one that may end a conversation it would pick another: without any it takes the last token,
    # and refuses several rows at once.
    padding = vocabulary.eos_id if vocabulary.pad_id is None else vocabulary.pad_id
    if padding in vocabulary.turn_ends:
        padding = None
    for part in {id(p): p for p in (resolved, resolved.get_text_config())}.values():
        part.pad_token_id = padding


def has_head(resolved: PretrainedConfig) -> bool:
    """Whether a run's model has a head for scores in place of the output layer for tokens."""
    return resolved.problem_type in (CLASSES, NUMBER)


def head_of(lm: nn.Module) -> nn.Linear | None:
    """The layer of a model that gives its scores; None in a language model."""
    if not isinstance(lm, PreTrainedModel) or not has_head(lm.config):
        return None
    head: nn.Linear = getattr(lm, HEAD)
    return head


def names_head(found: PretrainedConfig) -> bool:
    """Whether the weights that a config was found beside are of a model with a head for scores."""
    return any(name.endswith(HEADED) for name in found.architectures or [])


def classes_of(resolved: PretrainedConfig | OwnNet) -> list[str]:
    """Names of the classes that a run's model tells apart, in the order of their scores.

    Raises:
        ConfigError: if it is the user's own, which says nothing of classes.
    """
    if isinstance(resolved, OwnNet):
        raise ConfigError(
            f"model.type = '{resolved.code.file}:{resolved.code.name}': a model of your own needs "
            "an objective of your own too: name one in objective.type, or take a model.type of "
            "Transformers"
        )
    return [resolved.id2label[number] for number in sorted(resolved.id2label)]


def from_config(resolved: PretrainedConfig) -> PreTrainedModel:
    """A new model in fp32. One with a head gives scores of every token as its logits."""
    lm: PreTrainedModel = _class_of(resolved).from_config(
        copy.deepcopy(resolved), dtype=torch.float32
    )
    return _scoring(lm) if has_head(resolved) else lm


def from_pretrained(
    name: str, resolved: PretrainedConfig, revision: str = "main"
) -> PreTrainedModel:
    """A model with the weights of a folder or of one on the Hub, in fp32; else as `from_config`.

    A head that they lack is new, and drawn.

    Raises:
        ConfigError: if they lack more than a head, for a model with one.
    """
    config, found = copy.deepcopy(resolved), AutoConfig.from_pretrained(name, revision=revision)
    # Rows for more tokens are added to the weights that there are.
    config.get_text_config().vocab_size = found.get_text_config().vocab_size
    given = {"config": config, "revision": revision, "dtype": torch.float32}
    if not has_head(resolved):
        lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, **given)
        return lm
    with _without_warnings():
        lm, loaded = AutoModelForSequenceClassification.from_pretrained(
            name, output_loading_info=True, **given
        )
    missing = [key for key in loaded["missing_keys"] if not key.startswith(f"{HEAD}.")]
    if missing:
        raise ConfigError(
            f"model.pretrained = {name!r}: it has no weights for {', '.join(sorted(missing)[:4])} "
            f"of {type(lm).__name__}"
        )
    return _scoring(lm)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """In it, Transformers doesn't warn that a head is new, which it is meant to be."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def refuse_other_head(lm: PreTrainedModel, tokens: Tensor) -> None:
    """Raise ConfigError if a headed model's class computes its scores otherwise than is done here.

    Args:
        lm: the model, which evaluates.
        tokens: a row without padding, int64 (1, tokens).
    """
    own = type(lm).forward(lm, input_ids=tokens).logits
    ours = lm(input_ids=tokens).logits[:, -1]
    if own.shape != ours.shape or (own - ours).abs().max() > 1e-4 * own.abs().max():
        raise ConfigError(
            f"{type(lm).__name__}: its scores are not those of its layer '{HEAD}' at the last "
            "token; take another model.type, such as llama, qwen3 or gpt2"
        )


def _class_of(resolved: PretrainedConfig) -> Any:
    return AutoModelForSequenceClassification if has_head(resolved) else AutoModelForCausalLM


def _scoring(lm: PreTrainedModel) -> PreTrainedModel:
    if not isinstance(getattr(lm, HEAD, None), nn.Linear):
        raise ConfigError(
            f"{type(lm).__name__}: it has no layer '{HEAD}' that scores a token; take another "
            "model.type, such as llama, qwen3 or gpt2"
        )
    # In place of the class's own: what is laid over ranks and hooked is the model as a whole.
    lm.forward = MethodType(_scores_of_tokens, lm)
    return lm


def _scores_of_tokens(
    lm: PreTrainedModel, input_ids: Tensor, **given: Any
) -> SequenceClassifierOutput:
    """Scores of each token, (rows, tokens, scores), as `logits`; computed in the weights' type."""
    options = options_of(lm.base_model)
    hidden = lm.base_model(input_ids=input_ids, **{**given, **options}).last_hidden_state
    head = head_of(lm)
    assert head is not None
    with torch.autocast(hidden.device.type, enabled=False):
        scores = head(hidden.to(head.weight.dtype))
    return SequenceClassifierOutput(logits=scores)

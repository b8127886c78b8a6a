"""The Hugging Face config of a run's model, checked without building it (or Torch)."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from manta.config.errors import ConfigError
from manta.config.run import RunConfig


def resolve(config: RunConfig, vocab_size: int) -> PretrainedConfig:
    """The Hugging Face config of the run's model, checked against corpus and run.

    Args:
        config: the run.
        vocab_size: of the corpus's tokenizer, in tokens.

    Raises:
        ConfigError: unknown type or size, or a vocabulary or context too small.
    """
    section = config.model
    if section.pretrained is not None:
        try:
            resolved = AutoConfig.from_pretrained(section.pretrained)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.pretrained = {section.pretrained!r}: {error}") from None
    else:
        resolved = _from_sizes(section.type or "", {"vocab_size": vocab_size, **section.sizes})
    if resolved.vocab_size < vocab_size:
        raise ConfigError(
            f"model: its vocabulary has {resolved.vocab_size} entries, but the corpus was "
            f"tokenized with {vocab_size}: set model.sizes.vocab_size to at least {vocab_size} "
            "or prepare the corpus with this model's tokenizer (tokenizer.path)"
        )
    context = getattr(resolved, "max_position_embeddings", None)
    if context is not None and context < config.train.seq_len:
        raise ConfigError(
            f"train.seq_len = {config.train.seq_len}: the model's context is {context}; lower "
            "it, or raise model.sizes.max_position_embeddings"
        )
    return resolved


def _from_sizes(model_type: str, sizes: dict[str, Any]) -> PretrainedConfig:
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        close = difflib.get_close_matches(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ", such as llama, qwen3 or gpt2"
        raise ConfigError(
            f"model.type = {model_type!r}: not a causal language model of Transformers{hint}"
        )
    kind = type(AutoConfig.for_model(model_type))
    valid = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    for name in sizes:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"unknown key 'model.sizes.{name}' for {model_type}{hint}")
    try:
        return kind(**sizes)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.sizes: {model_type} refuses them: {error}") from None

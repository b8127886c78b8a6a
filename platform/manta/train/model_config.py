"""The Hugging Face config of a run's model, checked without building it (or Torch)."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.train.model_names import refuse_too_small, refuse_unknown_keys, refuse_unknown_type


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
    names = ("vocab_size", "max_position_embeddings")
    refuse_too_small(config, vocab_size, {name: getattr(resolved, name, None) for name in names})
    return resolved


def _from_sizes(model_type: str, sizes: dict[str, Any]) -> PretrainedConfig:
    refuse_unknown_type(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    kind = type(AutoConfig.for_model(model_type))
    valid = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    refuse_unknown_keys(model_type, sizes, valid)
    try:
        return kind(**sizes)
    except Exception as error:  # each model's class has checks, and errors, of its own
        reason = error.__cause__ or error
        raise ConfigError(f"model.sizes: {model_type} refuses them: {reason}") from None

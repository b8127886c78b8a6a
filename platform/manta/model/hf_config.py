"""The Hugging Face config of a run's model, checked without building it (or Torch)."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from manta.config.errors import ConfigError
from manta.config.model_names import NamedModel, hub_name
from manta.config.own_code import own
from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.model.model_class import take_head
from manta.model.own_net import OwnNet, refuse_what_needs_layers
from manta.model.source import refuse_too_small, refuse_unknown_keys, refuse_unknown_type
from manta.model.vocabulary import grow_config

# These look for padding among the tokens of each sample: RoBERTa and its kin count positions
# from it, XLM masks it, ProphetNet does both.
FIND_PADDING = {
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod"),
    *("data2vec-text", "xlm", "prophetnet"),
}


def resolve(config: RunConfig, vocabulary: Vocabulary | None) -> PretrainedConfig | OwnNet:
    """What the run's model is made of: its Hugging Face config, or the user's own class.

    A model from scratch has the corpus's special tokens, unless `model.sizes` says otherwise.

    Args:
        config: the run.
        vocabulary: the corpus's vocabulary and classes; None if its samples are not tokens.

    Raises:
        ConfigError: unknown type or size, a vocabulary or context too small, no token for padding
            in a model that can't do without, or no head for scores where the objective needs one.
    """
    section = config.model
    if code := own(config, "model.type"):
        refuse_what_needs_layers(config)
        return OwnNet(code, dict(section.sizes))
    assert vocabulary is not None  # `check_names` refuses a language model without tokens
    if section.pretrained is not None:
        resolved = pretrained_config(NamedModel("model.pretrained", section.pretrained))
        if section.grow_vocabulary:
            grow_config(resolved, vocabulary.size)
    else:
        resolved = _from_sizes(section.type or "", section.sizes, vocabulary)
    names = ("vocab_size", "max_position_embeddings")
    sizes = {name: getattr(resolved, name, None) for name in names}
    refuse_too_small(config, vocabulary.size, sizes)
    _refuse_trained_padding(resolved, vocabulary)
    if config.objective.type == "preference":
        _without_dropout(resolved)
    take_head(resolved, config, vocabulary)
    return resolved


def pretrained_config(model: NamedModel) -> PretrainedConfig:
    """The Hugging Face config of a model that a run's config names.

    Raises:
        ConfigError: if it can't be had.
    """
    name, revision = hub_name(model.name)
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"{model.key} = {model.name!r}: neither a folder with a config.json, as 'manta export' "
            f"writes it, nor a model of Hugging Face's that can be had: {why}"
        ) from None
    found.problem_type = None  # a language model, until an objective asks for a head
    return found


def _without_dropout(resolved: PretrainedConfig) -> None:
    """Have a model draw no random numbers: what it is compared with draws none either."""
    from manta.model.randomness import drawn_by  # imports Torch, which other runs don't need here

    for name in drawn_by(resolved):
        setattr(resolved.get_text_config(), name, 0.0)


def _from_sizes(model_type: str, sizes: dict[str, Any], vocabulary: Vocabulary) -> PretrainedConfig:
    refuse_unknown_type(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    kind = CONFIG_MAPPING[model_type]
    valid = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    refuse_unknown_keys(model_type, sizes, valid)
    made_of = {"vocab_size": vocabulary.size, **_special_tokens(kind, vocabulary), **sizes}
    try:
        resolved = kind(**_with_floats(kind, made_of))
    except Exception as error:  # each model's class has checks, and errors, of its own
        reason = error.__cause__ or error
        raise ConfigError(f"model.sizes: {model_type} refuses them: {reason}") from None
    _into_text_config(resolved, sizes, vocabulary)
    return resolved


def _special_tokens(kind: type[PretrainedConfig], vocabulary: Vocabulary) -> dict[str, int | None]:
    """The special tokens of a model from scratch, none of them by its type's defaults."""
    special = {
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "pad_token_id": vocabulary.pad_id,
    }
    insists = {field.name for field in dataclasses.fields(kind) if field.type in (int, "int")}
    # A few types insist on a number. EOS is what stands before a document, and what pads where
    # nothing else can; `model.build` sees to it that its embedding is trained.
    missing = insists & {name for name, token in special.items() if token is None}
    return special | dict.fromkeys(missing, vocabulary.eos_id)


def _into_text_config(
    resolved: PretrainedConfig, sizes: dict[str, Any], vocabulary: Vocabulary
) -> None:
    """Set the special tokens of a language model inside a multimodal one, too."""
    try:
        text = resolved.get_text_config(decoder=True)
    except ValueError:  # several of them: no language model
        return
    if text is not resolved:
        said = {key for value in sizes.values() if isinstance(value, dict) for key in value}
        for name, token in _special_tokens(type(text), vocabulary).items():
            if name not in said and name not in sizes:
                setattr(text, name, token)


def _refuse_trained_padding(resolved: PretrainedConfig, vocabulary: Vocabulary) -> None:
    if resolved.model_type not in FIND_PADDING:
        return
    padding = getattr(resolved, "pad_token_id", None)
    if padding is None or (padding < vocabulary.size and padding != vocabulary.pad_id):
        token = "none" if padding is None else f"token {padding}, which is trained like any other"
        raise ConfigError(
            f"model: {resolved.model_type} looks for padding among the tokens, and would find "
            f"{token}: prepare the corpus with a tokenizer that has a pad_token, set "
            f"model.sizes.pad_token_id to {vocabulary.size} and model.sizes.vocab_size above it, "
            "or take another model.type"
        )


def _with_floats(kind: type[PretrainedConfig], sizes: dict[str, Any]) -> dict[str, Any]:
    """`sizes` with floats where the type takes nothing else, also for the models within it."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    found = {key: _as_number(types.get(key, ""), value) for key, value in sizes.items()}
    for name, part in kind.sub_configs.items():
        within = found.get(name)
        if isinstance(within, dict) and isinstance(part, type) and dataclasses.is_dataclass(part):
            found[name] = _with_floats(part, within)
    return found


def _as_number(declared: str, value: Any) -> Any:
    """A whole number as a float where only that is taken: who writes 0 means 0.0."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and "float" in declared and "int" not in declared else value

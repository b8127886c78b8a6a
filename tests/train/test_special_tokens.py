"""A model's special tokens are those of the corpus, and every token's embedding is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.model import hf_config
from manta.model import language_model as models
from manta.model.hf_config import FIND_PADDING
from manta.objective.causal import TokenLoss, labels_of

SIZE = 61
EOS_ONLY = Vocabulary(SIZE, eos_id=5)
ALL = Vocabulary(SIZE, eos_id=5, bos_id=3, pad_id=7)
# The one refuses its own defaults, the other one's context of -1 is none of any length.
UNMADE = {"gemma4_assistant", "xlnet"}
# Their configs insist on a number for BOS, or for padding.
INSIST_ON_BOS = {"cwm", "modernbert-decoder", "emu3", "mllama"}
INSIST_ON_PADDING = {"modernbert-decoder", "emu3"}
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
# By default the token 1 (0 in Gemma) is padding to these, and 32,000 to Phi-3.
PADDING: dict[str, dict[str, Any]] = {
    "olmo2": {**WIDTHS, "num_key_value_heads": 2},
    "gemma": {**WIDTHS, "num_key_value_heads": 2, "head_dim": 16},
    "phi3": {**WIDTHS, "num_key_value_heads": 2},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "dropout": 0.0,
    },
}


def run_of(config: RunConfig, **model: Any) -> RunConfig:
    """The same run with another model."""
    return RunConfig.model_validate({**config.model_dump(), "model": model})


def language_model(resolved: PretrainedConfig) -> PretrainedConfig:
    """The config of the language model in one that may have other parts."""
    try:
        return resolved.get_text_config(decoder=True)
    except ValueError:  # several
        return resolved


@pytest.mark.parametrize("model_type", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - UNMADE))
def test_a_model_from_scratch_has_the_special_tokens_of_its_corpus(checked_module, model_type):
    config = run_of(checked_module().config, type=model_type)

    resolved = hf_config.resolve(config, ALL)
    assert [getattr(language_model(resolved), name) for name in IDS] == [3, 5, 7]
    made = GenerationConfig.from_model_config(language_model(resolved))
    assert [getattr(made, name) for name in IDS] == [3, 5, 7]

    if model_type in FIND_PADDING:
        with pytest.raises(ConfigError, match=r"would find none: .*tokenizer that has a pad_token"):
            hf_config.resolve(config, EOS_ONLY)
        return
    resolved = language_model(hf_config.resolve(config, EOS_ONLY))
    assert resolved.eos_token_id == 5
    assert resolved.bos_token_id == (5 if model_type in INSIST_ON_BOS else None)
    assert resolved.pad_token_id == (5 if model_type in INSIST_ON_PADDING else None)


def test_what_the_sizes_say_counts(checked):
    config = run_of(checked().config, type="llama", sizes={"bos_token_id": 9, "eos_token_id": 8})
    resolved = hf_config.resolve(config, ALL)
    assert [getattr(resolved, name) for name in IDS] == [9, 8, 7]
    inner = {"text_config": {"vocab_size": SIZE, "eos_token_id": 8}}
    text = hf_config.resolve(run_of(config, type="gemma3", sizes=inner), ALL).text_config
    assert [getattr(text, name) for name in IDS] == [3, 8, 7]


@pytest.mark.parametrize(("padding", "vocabulary"), [(4, SIZE), (SIZE, SIZE)])
def test_no_trained_token_is_padding_where_padding_is_looked_for(checked, padding, vocabulary):
    sizes = {"pad_token_id": padding, "vocab_size": vocabulary}
    config = run_of(checked().config, type="roberta", sizes=sizes)
    if padding < SIZE:
        with pytest.raises(ConfigError, match="token 4, which is trained like any other"):
            hf_config.resolve(config, EOS_ONLY)
    else:
        assert hf_config.resolve(config, EOS_ONLY).pad_token_id == SIZE


def untrained(config: RunConfig) -> list[int]:
    """The tokens whose embedding has no gradient, though each is in the batch."""
    lm = models.build(config, hf_config.resolve(config, EOS_ONLY))
    tokens = torch.arange(SIZE).repeat(2)[None]
    loss = TokenLoss(lm)(tokens[:, :64], labels_of(tokens[:, :64], None), None)
    loss.backward()
    gradient = lm.get_input_embeddings().weight.grad
    assert gradient is not None
    return [row for row in range(SIZE) if not gradient[row].any()]


@pytest.mark.parametrize("model_type", PADDING)
def test_every_token_is_trained(checked, model_type):
    # Untied, so that the head's gradient doesn't hide a missing one.
    sizes = {**PADDING[model_type], "tie_word_embeddings": False}
    assert untrained(run_of(checked().config, type=model_type, sizes=sizes)) == []


def test_every_token_of_a_pretrained_model_is_trained(checked, tmp_path: Path):
    sizes = {**PADDING["olmo2"], "tie_word_embeddings": False, "pad_token_id": 1}
    scratch = run_of(checked().config, type="olmo2", sizes=sizes)
    resolved = hf_config.resolve(scratch, EOS_ONLY)
    AutoModelForCausalLM.from_config(resolved).save_pretrained(tmp_path / "olmo")
    assert untrained(run_of(scratch, pretrained=str(tmp_path / "olmo"))) == []


def test_weights_at_the_start_are_those_of_the_types_defaults(checked):
    """But for the row that the type took for padding and left at zero."""
    config = run_of(checked().config, type="olmo2", sizes=PADDING["olmo2"])
    default = run_of(config, type="olmo2", sizes={**PADDING["olmo2"], "pad_token_id": 1})
    now, before = (
        models.build(run, hf_config.resolve(run, EOS_ONLY)).state_dict()
        for run in (config, default)
    )
    differ = [name for name in now if not torch.equal(now[name], before[name])]
    assert differ == ["model.embed_tokens.weight"]
    rows = (now[differ[0]] != before[differ[0]]).any(dim=1)
    assert rows.nonzero().flatten().tolist() == [1]
    assert not before[differ[0]][1].any()

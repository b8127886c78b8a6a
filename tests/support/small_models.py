"""Each type of causal language model of Transformers, made small: what a user would write.

Most types are made small by the usual names of their sizes; what a type needs beside them is in
MORE. Special tokens are those of the corpus.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY, CONTEXT = 96, 64

USUAL: dict[str, Any] = {
    name: value
    for value, names in [
        (64, "hidden_size n_embd d_model emb_dim embedding_size dim hidden_dim n_embed"),
        (4, "num_attention_heads n_head n_heads num_heads encoder_attention_heads"),
        (4, "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads"),
        (4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
        (2, "num_key_value_heads num_kv_heads num_hidden_layers n_layer n_layers num_layers"),
        (2, "encoder_layers decoder_layers num_encoder_layers num_decoder_layers"),
        (2, "num_experts_per_tok moe_topk moe_k"),
        (16, "head_dim q_lora_rank kv_lora_rank v_head_dim"),
        (8, "qk_rope_head_dim qk_nope_head_dim rotary_dim"),
        (128, "intermediate_size ffn_dim n_inner encoder_ffn_dim decoder_ffn_dim"),
        (128, "ffn_hidden_size dff feed_forward_size"),
        (32, "moe_intermediate_size shared_expert_intermediate_size"),
        (CONTEXT, "max_position_embeddings n_positions"),
    ]
    for name in names.split()
}
# Types that count positions from the padding token on can't do without one: here it is one more
# token, which the corpus has nowhere.
_ONE_MORE = {"pad_token_id": VOCABULARY, "vocab_size": VOCABULARY + 1}
_PADDED = {**_ONE_MORE, "max_position_embeddings": 256}
_MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_chunk_size": 16}
_PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
_LAYERS = ("full_attention", "sliding_attention")
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}

MORE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ["camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta"], _PADDED
    ),
    **dict.fromkeys(["xlm-roberta-xl", "prophetnet", "xlm"], _PADDED),
    **dict.fromkeys(["bamba", "granitemoehybrid"], _MAMBA2),
    "falcon_h1": {**_MAMBA2, "mamba_d_ssm": 128},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "chunk_size": 16},
    "gemma4_text": _PER_LAYER,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "axk1": {"n_group": 1, "topk_group": 1},
    "kimi_linear": {"linear_head_dim": 16, "linear_num_heads": 4},
    "roc_bert": {"shape_vocab_size": VOCABULARY, "pronunciation_vocab_size": VOCABULARY},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds": False,  # with them only samples of one length can be trained on
        "hash_seed": 0,
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 16,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 2,
        "pad_token_id": VOCABULARY,
        "vocab_size": VOCABULARY + 1,
    },
    "xmod": {**_PADDED, "default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 0},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "encoder_config": {"hidden_size_global": 64},
        "decoder_config": {"hidden_size_global": 64},
    },
    "cohere_compass_text": {"rope_parameters": dict.fromkeys(_LAYERS, _ROPE)},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8.0}},
    "gemma4": {
        "text_config": {**_PER_LAYER, **_ONE_MORE, "vocab_size_per_layer_input": VOCABULARY + 1}
    },
    "gemma4_unified": {"text_config": _ONE_MORE},
    "longcat_flash": {"zero_expert_num": 2, "head_dim": 8, "expert_ffn_hidden_size": 32},
}


def sizes_of(model_type: str) -> dict[str, Any]:
    """`model.sizes` for a small model of a type."""
    whole = AutoConfig.for_model(model_type)
    sizes = _usual(type(whole))
    for name in whole.sub_configs:  # of a model that has others inside, such as one for images
        part = getattr(whole, name, None)
        if isinstance(part, PretrainedConfig):
            sizes[name] = {"model_type": part.model_type, **_usual(type(part))}
    return merged(sizes, MORE.get(model_type, {}))


def merged(sizes: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`sizes` with `more`, of parts within it as well."""
    found = dict(sizes)
    for key, value in more.items():
        within = found.get(key)
        both = isinstance(within, dict) and isinstance(value, dict)
        found[key] = merged(within, value) if both else value
    return found


def _usual(kind: type[PretrainedConfig]) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(kind)}
    sizes: dict[str, Any] = {k: v for k, v in USUAL.items() if k in fields}
    if "vocab_size" in fields:
        sizes["vocab_size"] = VOCABULARY
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:  # latent, so the same for all
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    return sizes

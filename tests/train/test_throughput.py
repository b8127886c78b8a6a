"""FLOPs of a token, against what Torch counts as it computes; the peaks of devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from manta.config.model import ModelSection
from manta.model.trainable import choose_trained
from manta.train.throughput import flops_per_token, peak_flops_of

ROWS, SEQ_LEN, LAYERS, HEADS, HEAD_WIDTH = 2, 48, 3, 4, 24
# Wide enough that matrix products are all there is, and no two sizes alike, so that none of them
# can stand for another. Grouped queries, and heads that together are not as wide as the model.
LLAMA = {
    "vocab_size": 330,
    "hidden_size": 80,
    "intermediate_size": 200,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": HEAD_WIDTH,
    "max_position_embeddings": SEQ_LEN,
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_flops_are_those_that_torch_counts(tied: bool) -> None:
    """Torch counts attention's products in full, the causal model half of them."""
    config = AutoConfig.for_model("llama", tie_word_embeddings=tied, **LLAMA)
    lm = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tokens = torch.randint(0, LLAMA["vocab_size"], (ROWS, SEQ_LEN))
    with FlopCounterMode(display=False) as counter:
        lm(input_ids=tokens, use_cache=False).logits.sum().backward()
    causal_half = 12 * LAYERS * HEADS * HEAD_WIDTH * SEQ_LEN / 2
    expected = flops_per_token(lm, lm.config, SEQ_LEN) + causal_half
    assert counter.get_total_flops() == ROWS * SEQ_LEN * expected


@pytest.mark.parametrize(
    "section",
    [
        {"adapter": {"rank": 4}},
        {"adapter": {"rank": 4, "targets": ["down_proj"]}},
        {"freeze": ["*embed_tokens*", "model.layers.{0..1}.*"]},
        {"train": ["lm_head*"]},
    ],
)
def test_frozen_weights_take_fewer(section: dict[str, Any]) -> None:
    """Within 4 %: of a layer's products that share an input, only the first is known to."""
    config = AutoConfig.for_model("llama", tie_word_embeddings=False, **LLAMA)
    lm = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    every = flops_per_token(lm, lm.config, SEQ_LEN)
    choose_trained(lm, ModelSection.model_validate({"pretrained": "x", **section}), 0)
    tokens = torch.randint(0, LLAMA["vocab_size"], (ROWS, SEQ_LEN))
    with FlopCounterMode(display=False) as counter:
        lm(input_ids=tokens, use_cache=False).logits.sum().backward()
    expected = flops_per_token(lm, lm.config, SEQ_LEN)
    frozen_layers = {"freeze": 2, "train": LAYERS}.get(next(iter(section)), 0)
    causal_half = (12 * LAYERS - 8 * frozen_layers) * HEADS * HEAD_WIDTH * SEQ_LEN / 2
    counted = counter.get_total_flops() / ROWS / SEQ_LEN
    assert expected + causal_half == pytest.approx(counted, rel=0.04)
    assert expected < 0.8 * every


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA H20", 148),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GB300", 2500),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA H800 PCIe", 756),
        ("NVIDIA H800", 989.4),
        ("NVIDIA A800-SXM4-80GB", 312),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA A40", 149.7),
        ("NVIDIA RTX A6000", 154.8),
        ("Tesla T4", 65),
        ("NVIDIA A2", None),
    ],
)
def test_peaks_by_the_names_that_devices_give(name: str, tera: float | None) -> None:
    assert peak_flops_of(name) == (None if tera is None else tera * 1e12)


def test_fp32_is_measured_against_its_own_peak() -> None:
    assert peak_flops_of("NVIDIA H100 80GB HBM3", fp32=True) == 66.9e12
    assert peak_flops_of("NVIDIA A2", fp32=True) is None

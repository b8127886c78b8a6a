"""Routers of Transformers' models whose choice of experts has a bias."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from manta.model.routers import biases_of, choice_of, routers_of
from manta.model.small import skeleton, small_of

# As docs/objectives.md lists them, and where the bias is elsewhere than on the router.
TYPES = [
    "deepseek_v3", "glm4_moe", "glm4_moe_lite", "afmoe", "ernie4_5_moe", "minimax_m2", "exaone_moe",
    "hy_v3", "kimi_linear", "laguna", "mimo_v2_flash", "solar_open",
]  # fmt: skip


@pytest.mark.parametrize("model_type", TYPES)
def test_a_higher_bias_draws_tokens_to_its_expert(model_type) -> None:
    resolved = CONFIG_MAPPING[model_type]()
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(small_of(resolved, skeleton(resolved)))
    lm.set_experts_implementation("eager")  # the grouped product has sizes that it can't take
    chosen = {}
    for name, router in routers_of(lm).items():
        router.register_forward_hook(
            lambda router, given, output, name=name: chosen.update(
                {name: choice_of(router, output, "key")[1]}
            )
        )
    biases = biases_of(lm)
    with torch.no_grad():
        for bias in biases.values():
            bias.value.view(-1)[3] += 10
        lm(input_ids=torch.arange(12).view(2, 6), use_cache=False)
    assert biases.keys() == chosen.keys()
    assert all((experts == 3).any(-1).all() for experts in chosen.values())

"""A router's balance loss per sequence: the same over every split and padding."""

from __future__ import annotations

import pytest
import torch
from tiny_batches import documents, llama
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

from manta.config.errors import ConfigError
from manta.objective.balanced import BalancedCausal, sequence_balance
from manta.objective.causal import Causal
from manta.objective.protocol import Models
from manta.objective.weighing import Weighing
from manta.testing import check_objective

SIZES = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts_per_tok": 2,
}  # fmt: skip
KINDS = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=16),
}


@pytest.fixture(params=KINDS)
def lm(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(KINDS[request.param], dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate.weight" in name:
                parameter.normal_()  # at first a router is near balance, and its gradient near 0
    return model


def gradient(objective, lm):
    """The gradient of a whole batch, flat."""
    lm.zero_grad()
    inputs = objective.inputs(documents(), torch.device("cpu"))
    sums = objective.module(Models(lm))(*inputs.rows(slice(0, len(inputs))))
    weighing = Weighing(objective.terms, torch.device("cpu"))
    weighing.for_backward(sums, objective.weights(inputs), 1).backward()
    return torch.cat([p.grad.flatten() for p in lm.parameters()]), sums.detach()


def test_its_gradient_is_the_same_over_every_split_and_padding(lm) -> None:
    check_objective(BalancedCausal(10.0, document_mask=True), lm, documents())


def test_recomputing_activations_changes_nothing(lm) -> None:
    """Routers run a second time then, within the backward pass."""
    kept, _ = gradient(BalancedCausal(1.0), lm.train())
    lm.activation_checkpointing_enable({"use_reentrant": False})
    recomputed, _ = gradient(BalancedCausal(1.0), lm)
    torch.testing.assert_close(recomputed, kept, rtol=0, atol=0)


def test_its_coefficient_scales_its_gradient(lm) -> None:
    none, _ = gradient(Causal(), lm)
    one, _ = gradient(BalancedCausal(1.0), lm)
    ten, _ = gradient(BalancedCausal(10.0), lm)
    assert (one - none).norm() > 1e-3 * none.norm()
    torch.testing.assert_close(ten - none, 10 * (one - none), rtol=1e-3, atol=1e-5)


def test_it_is_the_formula_over_each_sequence(lm) -> None:
    """By loops, on what Transformers itself records of the routers."""
    _, sums = gradient(BalancedCausal(1.0), lm)
    tokens = torch.from_numpy(documents()["tokens"].astype("int64"))
    expected = 0.0
    for row in tokens:
        logits = lm(input_ids=row[None], output_router_logits=True, use_cache=False).router_logits
        for layer in logits:
            shares = layer.float().softmax(-1)
            chosen = shares.topk(2, dim=-1).indices.tolist()
            for expert in range(4):
                picked = sum(expert in one for one in chosen)
                expected += 4 / (2 * len(row)) * picked * shares[:, expert].mean().item()
    assert float(sums[1]) == pytest.approx(expected, rel=1e-5)


def test_equal_shares_are_one_and_what_is_not_real_is_left_out() -> None:
    scores = torch.ones(2 * 4, 4)
    chosen = torch.tensor([[0], [1], [2], [3]] * 2)
    real = torch.ones(2, 4, dtype=torch.bool)
    assert float(sequence_balance(scores, chosen, real)) == pytest.approx(2.0)
    real[1] = False  # a blank row
    assert float(sequence_balance(scores, chosen, real)) == pytest.approx(1.0)
    scores[2:4, 0], chosen[2:4], real[0, 2:] = 99.0, 0, False  # padding in a row
    shares = sequence_balance(scores, chosen, real)
    assert float(shares) == pytest.approx(float(sequence_balance(
        scores[:2], chosen[:2], torch.ones(1, 2, dtype=torch.bool)
    )))  # fmt: skip


def test_a_model_without_a_router_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no router whose choice .* objective\.balance: 0"):
        BalancedCausal(1.0).module(Models(llama()))

"""The loss of real models: computed by the output layer where that is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_runs import losses, train
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from manta.model.cross_entropy import IGNORE
from manta.model.loss_head import LossHead, fuse
from manta.objective.causal import TokenLoss

VOCAB = 61
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": VOCAB,
}
FUSED: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "gpt2": {},  # tied
    "phi": {},  # its output layer has a bias
    "mixtral": {"num_local_experts": 2},
}
# They change what the output layer gives: a cap, a factor, a divisor.
PLAIN: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 16},
    "cohere": {"bos_token_id": 1, "eos_token_id": 2},
    "granite": {"logits_scaling": 2.0},
}


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {**SIZES, **(FUSED | PLAIN)[kind]}
    config = AutoConfig.for_model(kind.partition(",")[0], **sizes)
    return AutoModelForCausalLM.from_config(config).eval()


def outcome(lm: PreTrainedModel) -> dict[str, Tensor]:
    """Loss and gradients on some tokens, by name."""
    torch.manual_seed(1)
    tokens, labels = torch.randint(0, VOCAB, (2, 3, 10))
    labels[:, 7:] = IGNORE
    lm.zero_grad()
    loss = TokenLoss(lm)(tokens, labels, None)
    loss.backward()
    gradients = {name: p.grad for name, p in lm.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def is_fused(lm: PreTrainedModel) -> bool:
    return any(isinstance(module, LossHead) for module in lm.modules())


@pytest.mark.parametrize("kind", FUSED)
def test_the_output_layer_gives_the_loss_of_the_logits(kind) -> None:
    lm = model_of(kind)
    plain, names = outcome(lm), list(lm.state_dict())
    fuse(lm)
    assert is_fused(lm)
    assert list(lm.state_dict()) == names
    fused = outcome(lm)
    assert fused.keys() == plain.keys()
    for name, value in plain.items():
        error = (fused[name] - value).abs().max()
        assert error <= 1e-6 * max(float(value.abs().max()), 1e-3), name


@pytest.mark.parametrize("kind", FUSED)
def test_without_labels_it_gives_logits_as_ever(kind) -> None:
    lm, tokens = model_of(kind), torch.arange(10)[None]
    logits = lm(input_ids=tokens, use_cache=False).logits
    fuse(lm)
    outcome(lm)
    assert torch.equal(lm(input_ids=tokens, use_cache=False).logits, logits)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_model_that_changes_its_logits_keeps_its_output_layer(kind) -> None:
    lm = model_of(kind)
    plain = outcome(lm)
    fuse(lm)
    assert not is_fused(lm)
    assert all(torch.equal(value, plain[name]) for name, value in outcome(lm).items())


def test_tied_weights_stay_one(tmp_path) -> None:
    lm = model_of("llama, tied")
    fuse(lm)
    assert lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    lm.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, lm.lm_head.weight)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({}, 1e-5), ({"parallel.shard": True}, 1e-5), ({"train.precision": "bf16"}, 1e-2)],
    ids=["ddp", "fsdp2", "bf16"],
)
def test_ranks_train_with_it_as_one_does_without(checked, changes, tolerance) -> None:
    tied = {"model.sizes.tie_word_embeddings": True}
    alone = losses(train(checked({**tied, "run.name": "alone"}), fault=unfused))
    both = losses(train(checked({**tied, "run.name": "both", **changes}), 2))
    assert both.keys() == alone.keys()
    for step, loss in alone.items():
        assert both[step] == pytest.approx(loss, rel=tolerance)


def unfused(engine: Any) -> None:
    """Take the loss from logits, as without `fuse`."""
    (module,) = (m for m in engine.model.modules() if isinstance(m, TokenLoss))
    assert module._head[0] is not None
    module._head = [None]

"""A router's bias moves by the load of its experts over the whole global batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_runs import engine_of, losses, run_ranks, train

from manta.config.errors import ConfigError
from manta.elastic.checks.preflight import Checked, try_model
from manta.state.checkpoint_files import newest
from manta.state.loading import load
from manta.stream.plan import local_stream

SIZES = {
    "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}  # fmt: skip
# The bias is a buffer of the router.
DEEPSEEK = {
    "type": "deepseek_v3",
    "sizes": {
        **SIZES, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 2, "topk_group": 2,
        "first_k_dense_replace": 0, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8, "v_head_dim": 16,
    },
}  # fmt: skip
# The bias is a parameter of the layer, without a gradient.
AFMOE = {
    "type": "afmoe",
    "sizes": {
        **SIZES, "num_experts": 8, "num_shared_experts": 1, "num_dense_layers": 0, "head_dim": 16,
    },
}  # fmt: skip
RATE = 0.01
MOVED = {"objective.bias_rate": RATE, "train.micro_batch": 2}


def biases(checked: Checked) -> dict[str, torch.Tensor]:
    """Those of a run's newest checkpoint."""
    engine = engine_of(checked)
    load(newest(checked.run_dir / "checkpoints"), engine.trained)
    state = engine.trained.lm.state_dict()
    return {name: value for name, value in state.items() if name.endswith("_bias") and value.any()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("model", [DEEPSEEK, AFMOE], ids=lambda model: model["type"])
def test_biases_are_the_same_at_any_world_size_and_micro_batch(checked, model) -> None:
    given = {"model": model, **MOVED}
    alone = checked({"run.name": "alone", **given})
    expected = losses(train(alone))
    moved = biases(alone)
    assert len(moved) == 2, "one for each layer"

    others: list[tuple[int, dict[str, Any]]] = [
        (1, {"train.micro_batch": 8}),
        (3, {"train.activation_checkpointing": True}),  # uneven shares: some ranks have blank rows
        (2, {"parallel.shard": True}),
    ]
    for index, (ranks, changes) in enumerate(others):
        other = checked({"run.name": f"other{index}", **given, **changes})
        found = losses(train(other, ranks))
        # Rows that are divided otherwise are rounded otherwise, and a choice between two experts of
        # nearly the same score may turn on that, on one processor and not on another.
        assert found == pytest.approx(expected, rel=1e-4)
        assert same(biases(other), moved)


def test_a_killed_run_goes_on_with_its_biases_to_the_bit(checked) -> None:
    given = {"model": DEEPSEEK, **MOVED}
    whole, killed = (
        checked({"run.name": "whole", **given}),
        checked({"run.name": "killed", **given}),
    )
    undisturbed = losses(train(whole, 2))
    train(killed, 2, die_after=len(undisturbed) // 2 + 1)
    assert losses(train(killed, 2, attempt=2)) == undisturbed
    assert same(biases(killed), biases(whole))
    assert len(biases(whole)) == 2


def _bias_that_computes(checked: Checked) -> None:
    """On a rank: after a step in bf16, the copy that computes has the biases that moved."""
    engine = engine_of(checked)
    rank, ranks = engine.ranks.rank, engine.ranks.world_size
    engine.step(
        next(local_stream(checked.corpus, checked.schedule, cursor=0, rank=rank, world_size=ranks))
    )
    kept = [layer.mlp.gate for layer in engine.trained.lm.model.layers]
    used = [layer.mlp.gate for layer in engine._rounded.lm.model.layers]
    for mine, other in zip(kept, used, strict=True):
        assert mine.e_score_correction_bias.any()
        assert torch.equal(mine.e_score_correction_bias, other.e_score_correction_bias)


def test_weights_in_bf16_are_routed_by_the_biases_that_are_saved(checked) -> None:
    in_bf16 = {"train.precision": "bf16", "train.param_dtype": "bf16"}
    run_ranks(2, _bias_that_computes, checked({"model": DEEPSEEK, **MOVED, **in_bf16}))


def stepped(checked: Checked, poisoned: bool = False) -> Any:
    """The engine of a run after one step, and the loads of each layer's experts by hand."""
    engine = engine_of(checked)
    batch = next(local_stream(checked.corpus, checked.schedule, cursor=0, rank=0, world_size=1))
    tokens = torch.from_numpy(batch.samples["tokens"].astype("int64"))
    with torch.no_grad():
        logits = engine.trained.lm(
            input_ids=tokens, output_router_logits=True, use_cache=False
        ).router_logits
    loads = [
        torch.bincount(layer.sigmoid().topk(2, dim=-1).indices.flatten(), minlength=8)
        for layer in logits
    ]
    if poisoned:
        engine.model.register_forward_hook(lambda model, given, sums: sums * torch.nan)
    engine.step(batch)
    return engine, loads


def test_a_step_moves_each_bias_by_the_sign_of_what_its_load_lacks(checked) -> None:
    for rate in (RATE, 2 * RATE):
        engine, loads = stepped(checked({"model": AFMOE, "objective.bias_rate": rate}))
        for layer, chosen in zip(engine.trained.lm.model.layers, loads, strict=True):
            expected = rate * (chosen.double().mean() - chosen).sign()
            assert expected.any()
            torch.testing.assert_close(layer.mlp.expert_bias.double(), expected)


def test_a_step_whose_update_is_dropped_moves_none(checked) -> None:
    changes = {"model": AFMOE, "objective.bias_rate": RATE, "guards.nonfinite": "skip"}
    engine, _ = stepped(checked(changes), poisoned=True)
    assert not any(layer.mlp.expert_bias.any() for layer in engine.trained.lm.model.layers)


def test_evaluations_are_not_counted(checked) -> None:
    run = checked({"model": AFMOE, "objective.bias_rate": RATE})
    engine = engine_of(run)
    batch = next(local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1))
    engine.measure(batch.samples)
    engine._expert_bias.move(torch.zeros(()))
    assert not any(layer.mlp.expert_bias.any() for layer in engine.trained.lm.model.layers)


def test_a_model_without_such_a_bias_is_refused_with_the_reason(checked) -> None:
    with pytest.raises(ConfigError, match=r"without a router .*objective\.balance"):
        try_model(checked({"objective.bias_rate": RATE}))
    mixtral = {
        "type": "mixtral",
        "sizes": {**SIZES, "num_local_experts": 4, "router_aux_loss_coef": 0},
    }
    del mixtral["sizes"]["moe_intermediate_size"]
    refused = {"model": mixtral, "objective.bias_rate": RATE}
    with pytest.raises(ConfigError, match=r"has no bias for the choice .*objective\.balance"):
        try_model(checked(refused))
    with pytest.raises(ConfigError, match=r"has no bias for the choice"):
        engine_of(checked(refused))
    assert try_model(checked({"model": DEEPSEEK, "objective.bias_rate": RATE})).whole


def test_a_model_that_asks_for_a_loss_of_whole_batches_hears_of_both_ways(checked) -> None:
    mixtral = {"type": "mixtral", "sizes": {**SIZES, "num_local_experts": 4}}
    del mixtral["sizes"]["moe_intermediate_size"]
    with pytest.raises(ConfigError, match=r"objective\.balance.* objective\.bias_rate"):
        try_model(checked({"model": mixtral}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train.compile": True}, r"objective\.bias_rate with train\.compile"),
        ({"train.precision": "fp16"}, "loss scaler"),
        ({"objective.type": "chat"}, "'bias_rate' is for type causal"),
    ],
)
def test_what_it_cant_go_with_is_refused(checked, changes, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        checked({"model": DEEPSEEK, **MOVED, **changes})

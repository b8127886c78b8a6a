"""Objectives of the user's own, and balance losses, in the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_runs import losses, train

from manta.config.errors import ConfigError
from manta.elastic.checks.preflight import try_model


def same_curve(one, other):
    return one.keys() == other.keys() and all(
        one[step] == pytest.approx(other[step], rel=1e-5) for step in one
    )


# What the page shows, which a user begins with.
PAGE = (Path(__file__).parents[2] / "docs/objectives.md").read_text()
OWN = PAGE.split("```python\n")[1].split("```")[0]
MEANS = OWN.replace("(loss * real[:, None]).sum()", "(loss * real[:, None]).mean()")
MOE = {
    "model": {
        "type": "qwen3_moe",
        "sizes": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "moe_intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "router_aux_loss_coef": 0,
        },
    }
}


def own(text=OWN, **options):
    named = {"type": "mine.py:Mine", "options": options}
    return {"objective": named, "code": {"mine.py": text}}


def test_an_objective_of_ones_own_trains_as_the_same_one_of_manta_does(checked) -> None:
    causal = losses(train(checked({"run.name": "causal"})))
    mine = checked({"run.name": "mine", **own()})
    rows = train(mine, 3)
    assert same_curve(losses(rows), causal)
    assert all(0 <= row["term/accuracy"] <= 1 for row in rows if "loss" in row)
    assert all(row["term/mine"] == row["loss"] for row in rows if "loss" in row)


def test_it_is_tried_before_a_worker_is_asked_for(checked) -> None:
    assert try_model(checked(own(smoothing=0.1))).whole
    with pytest.raises(ConfigError, match=r"Mine: its term 'mine' is a mean over the rows"):
        try_model(checked(own(MEANS)))
    with pytest.raises(ConfigError, match=r"needs the column pairs of a sample; .* have tokens"):
        try_model(checked(own(OWN.replace('{"tokens"}', '{"pairs"}'))))
    with pytest.raises(ConfigError, match=r"mine\.py:Mine': can't be made: TypeError.*unknown"):
        try_model(checked(own(unknown=1)))
    with pytest.raises(ConfigError, match=r"it has no weights"):
        try_model(checked(own(OWN.replace("def weights", "def heaviness"))))
    broken = OWN.replace("labels = tokens[:, 1:]", "labels = tokenz[:, 1:]")
    line = broken.splitlines().index("        labels = tokenz[:, 1:]") + 1
    with pytest.raises(ConfigError, match=rf"fails .* mine\.py:{line}: NameError"):
        try_model(checked(own(broken)))


def test_a_balance_loss_is_the_same_at_any_world_size_and_left_out_of_the_loss(checked) -> None:
    balanced = {**MOE, "objective.balance": 0.1, "train.micro_batch": 2}
    one = train(checked({"run.name": "one", **balanced}))
    laid = {"parallel.shard": True, "train.activation_checkpointing": True}
    three = train(checked({"run.name": "three", **balanced, **laid}), 3)
    assert same_curve(losses(one), losses(three))
    values = {row["step"]: row["term/balance"] for row in one if "loss" in row}
    assert same_curve(values, {r["step"]: r["term/balance"] for r in three if "loss" in r})
    assert min(values.values()) > 1.9, "one for each of two layers, at perfect balance"
    assert all(row["term/cross_entropy"] == row["loss"] for row in one if "loss" in row)


def test_a_balance_loss_without_a_router_is_refused_before_a_worker_is_asked_for(checked) -> None:
    with pytest.raises(ConfigError, match=r"no router"):
        try_model(checked({"objective.balance": 0.1}))
    assert try_model(checked({**MOE, "objective.balance": 0.1})).whole

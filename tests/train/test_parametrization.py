"""muP and CompleteP: training does the same at all sizes, by the factors of the papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from plain_runs import engine_of
from torch import Tensor
from transformers import PreTrainedModel

from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.elastic.checks.preflight import try_model
from manta.model import hf_config
from manta.model import language_model as models
from manta.optimizer.build import LR_FACTOR, build

VOCAB, LENGTH, HEAD = 61, 32, 16
LR, STEPS = 3e-3, 5
MUP = {"type": "mup", "base_width": 32}
COMPLETEP = {"type": "completep", "base_width": 32, "base_depth": 2}


def config_of(width: int, depth: int, parametrization: Any, **optimizer: Any) -> RunConfig:
    sizes = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // HEAD,
        "num_key_value_heads": width // HEAD,
        "max_position_embeddings": LENGTH,
        "attention_bias": True,
        "mlp_bias": True,
    }
    return RunConfig.model_validate(
        {
            "run": {"name": "x"},
            "corpus": "x",
            "model": {"type": "llama", "sizes": sizes, "parametrization": parametrization},
            "train": {"seq_len": LENGTH},
            "schedule": {"horizon": 1000, "lr": LR, "batch": 8},
            "optimizer": optimizer,
        }
    )


def model_of(config: RunConfig) -> PreTrainedModel:
    return models.build(config, hf_config.resolve(config, Vocabulary(VOCAB, eos_id=0)))


def tokens() -> Tensor:
    return torch.randint(VOCAB, (8, LENGTH), generator=torch.Generator().manual_seed(1))


def train(lm: PreTrainedModel, optimizer: torch.optim.Optimizer) -> list[float]:
    """Some steps on one batch; the loss of each."""
    losses = []
    for _ in range(STEPS):
        loss = lm(tokens(), labels=tokens()).loss
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = LR * group.get(LR_FACTOR, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def moved(width: int, depth: int, parametrization: Any) -> tuple[float, float]:
    """Mean distance by which training moves the last residual stream, and the logits."""
    config = config_of(width, depth, parametrization)
    lm = model_of(config)
    optimizer = build(config.optimizer, lm, 1, config.model.parametrization)

    streams: list[Tensor] = []
    lm.model.layers[-1].register_forward_pre_hook(lambda layer, given: streams.append(given[0]))

    @torch.no_grad()
    def seen() -> tuple[Tensor, Tensor]:
        logits = lm(tokens()).logits
        return streams[-1], logits

    before = seen()
    train(lm, optimizer)
    stream, logits = ((a - b).abs().mean() for a, b in zip(seen(), before, strict=True))
    return float(stream), float(logits)


def slopes(sizes: list[int], found: list[tuple[float, float]]) -> list[float]:
    """The powers of the size by which both distances grow."""
    return np.polyfit(np.log2(sizes), np.log2(found), 1)[0].tolist()


def test_the_coordinate_check_over_widths() -> None:
    """Yang et al., 2021, appendix D.1: what training moves does not grow with the width."""
    widths = [32, 64, 128, 256]
    stream, logits = slopes(widths, [moved(width, 2, MUP) for width in widths])
    assert abs(stream) < 0.1
    assert -0.5 < logits < 0.1  # the part of the first values gets smaller
    stream, logits = slopes(widths, [moved(width, 2, None) for width in widths])
    assert stream > 0.5
    assert logits > 0.5


def test_the_coordinate_check_over_depths() -> None:
    """Dey et al., 2025, section 3: nor with the depth, which muP alone does not see to."""
    depths = [2, 4, 8]
    stream, logits = slopes(depths, [moved(64, depth, COMPLETEP) for depth in depths])
    assert abs(stream) < 0.25
    assert abs(logits) < 0.1
    stream, _ = slopes(depths, [moved(64, depth, MUP) for depth in depths])
    assert stream > 0.6


def test_at_the_sizes_of_the_base_nothing_changes() -> None:
    plain, base = (model_of(config_of(32, 2, each)) for each in (None, COMPLETEP))
    pairs = zip(plain.parameters(), base.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    config = config_of(32, 2, COMPLETEP)
    built = build(config.optimizer, base, 1, config.model.parametrization).param_groups
    usual = build(config.optimizer, plain, 1).param_groups
    settings = [[{**group, "params": len(group["params"])} for group in g] for g in (built, usual)]
    assert settings[0] == settings[1]


def test_factors_in_weights_are_the_multipliers_of_the_papers() -> None:
    """Table 1 of Dey et al. with α = 1, by multipliers in the forward pass: the same losses.

    An eps that counts, a decay and biases show that each has its factor.
    """
    eps, decay, width, depth = 1e-4, 0.3, 128, 6
    m, d = width / 32, depth / 2
    config = config_of(width, depth, COMPLETEP, eps=eps, weight_decay=decay, decay_all=True)
    ours = model_of(config)
    found = train(ours, build(config.optimizer, ours, 1, config.model.parametrization))
    theirs = model_of(config_of(width, depth, None))
    groups = []
    for name, weight in theirs.named_parameters():
        hidden, matrix = ".layers." in name, weight.ndim == 2
        rate = 1 / m if hidden and matrix else 1.0
        if hidden and matrix:
            weight.data /= math.sqrt(m)
        scale = 1 / (m * d) if hidden else 1 / m
        settings = {"eps": eps * scale, "weight_decay": decay / rate, LR_FACTOR: rate}
        groups.append({"params": [weight], **settings})
    for name, module in theirs.named_modules():
        factor = 1 / d if name.endswith(("o_proj", "down_proj")) else 1.0
        factor = 1 / m if name == "lm_head" else factor
        if factor != 1:
            module.register_forward_hook(lambda _, given, out, by=factor: out * by)
    expected = train(theirs, torch.optim.AdamW(groups, betas=config.optimizer.betas))
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-1] < found[0] - 0.1


def test_a_run_begins_with_its_first_values(checked) -> None:
    run = checked({"model.parametrization": {"type": "mup", "base_width": 16}})
    engine = engine_of(run)
    other = models.build(run.config, hf_config.resolve(run.config, run.manifest.vocabulary))
    for one, another in zip(engine.trained.lm.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, another)
    groups = engine.trained.optimizer.param_groups
    assert {group.get(LR_FACTOR, 1.0) for group in groups} == {0.5, 1.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"type": "gpt2", "sizes": {"n_embd": 32}},
            "llama, mistral, qwen2, qwen3, but not in gpt2",
        ),
        ({"sizes.tie_word_embeddings": True}, "set model.sizes.tie_word_embeddings to false"),
    ],
)
def test_a_model_that_it_does_not_fit_is_refused_before_a_device_is_held(
    checked, changes, said
) -> None:
    keys = {f"model.{key}": value for key, value in changes.items()}
    run = checked({"model.parametrization": MUP, **keys})
    with pytest.raises(ConfigError, match=said):
        try_model(run)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"type": "muon"}}, "rates and eps of AdamW"),
        ({"model": {"pretrained": "x", "parametrization": MUP}}, "not for a pretrained model"),
        (
            {"model.parametrization": {"type": "mup", "base_width": 9, "base_depth": 2}},
            "base_depth",
        ),
        ({"model.parametrization": {"type": "completep", "base_width": 9}}, "base_depth"),
    ],
)
def test_what_it_can_not_be_used_with_is_refused(checked, changes, said) -> None:
    with pytest.raises(ValueError, match=said):
        checked({"model.parametrization": MUP, **changes})

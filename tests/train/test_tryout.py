"""A model is tried before a worker is asked for: what can't be trained exactly is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import small_models
import torch
from plain_runs import engine_of
from torch import nn
from transformers import GPT2Config, LlamaConfig, PretrainedConfig, Qwen3MoeConfig

from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.model import hf_config, tryout, visibility
from manta.model.randomness import remarks_of_own
from manta.model.small import LIMIT, skeleton, small_of, weights
from manta.model.trial_result import Tried
from manta.stream.plan import local_stream


@pytest.fixture
def tried(checked):
    """Tries a small model of a type with some sizes of its own."""

    def build(
        model_type: str,
        sizes: dict[str, Any] | None = None,
        *,
        mask: bool = False,
        seq_len: int = 16,
    ) -> Tried:
        made = small_models.merged(small_models.sizes_of(model_type), sizes or {})
        config = checked().config.model_dump(by_alias=True) | {
            "model": {"type": model_type, "sizes": made},
            "data": {"document_mask": mask},
            "train": {"seq_len": seq_len},
        }
        vocabulary = Vocabulary(small_models.VOCABULARY, eos_id=0)
        run = RunConfig.model_validate(config)
        return tryout.try_out(run, hf_config.resolve(run, vocabulary), vocabulary.size)

    return build


@pytest.mark.parametrize("model_type", ["bert", "electra", "roberta"])
def test_a_model_that_sees_later_tokens_is_refused_or_a_decoder(tried, model_type) -> None:
    with pytest.raises(ConfigError, match=r"later tokens.*set model\.sizes\.is_decoder: true"):
        tried(model_type)
    assert tried(model_type, {"is_decoder": True}).whole


def test_what_no_setting_makes_causal_is_refused_for_another_type(tried) -> None:
    with pytest.raises(ConfigError, match=r"'cpmant'.*later tokens.*such as llama"):
        tried("cpmant")


@pytest.mark.parametrize(
    ("model_type", "key"),
    [
        ("mixtral", "router_aux_loss_coef"),
        ("qwen3_moe", "router_aux_loss_coef"),
        ("jetmoe", "aux_loss_coef"),
    ],
)
def test_a_balance_loss_is_refused_unless_its_coefficient_is_nought(tried, model_type, key) -> None:
    with pytest.raises(ConfigError, match=rf"{key} = 10.*set model\.sizes\.{key}: 0"):
        tried(model_type, {key: 10})
    assert tried(model_type, {key: 0}).whole


def test_the_coefficient_of_a_model_within_another_is_named_by_its_section(tried) -> None:
    with pytest.raises(
        ConfigError, match=r"set model\.sizes\.text_config\.router_aux_loss_coef: 0 "
    ):
        tried("qwen3_5_moe", {"text_config": {"router_aux_loss_coef": 10}})
    assert tried("qwen3_5_moe", {"text_config": {"router_aux_loss_coef": 0}}).whole


def test_positions_that_are_counted_from_the_padding_token_stay_so(tried) -> None:
    """ProphetNet's table of positions; what remains wrong with it is its loss over n-grams."""
    with pytest.raises(ConfigError, match=r"'prophetnet': its own loss is more than the cross-ent"):
        tried("prophetnet")


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "olmoe"])
def test_rounding_in_a_mixture_of_experts_is_no_leak(tried, model_type) -> None:
    assert tried(model_type, {"router_aux_loss_coef": 0}, mask=True).whole


@pytest.mark.parametrize("model_type", ["bert", "bloom", "afmoe", "mamba"])
def test_a_model_that_sees_other_documents_has_no_document_mask(tried, model_type) -> None:
    decoder = {"is_decoder": True} if model_type == "bert" else {}
    assert tried(model_type, decoder).whole
    with pytest.raises(ConfigError, match=r"data\.document_mask: .*across document boundaries"):
        tried(model_type, decoder, mask=True)


@pytest.mark.parametrize(
    ("model_type", "sizes", "says"),
    [
        ("gpt2", {"n_embd": 65}, r"n_embd = 65"),
        ("phi3", {"pad_token_id": 32000}, r"set model\.sizes\.pad_token_id: null"),
        ("bert", {"hidden_size": 32, "num_attention_heads": 12}, r"num_attention_heads = 12"),
        ("gptj", {"rotary_dim": 64}, r"first forward pass.*fails"),
        ("gpt2", {"n_positions": 16, "n_layer": 1, "n_embd": 64}, None),
    ],
)
def test_sizes_that_the_model_refuses_are_told_with_their_key(
    tried, model_type, sizes, says
) -> None:
    if says is None:
        assert tried(model_type, sizes).whole
        return
    with pytest.raises(ConfigError, match=says):
        tried(model_type, sizes)


def test_a_sample_longer_than_the_positions_that_are_left_is_refused(tried) -> None:
    """RoBERTa's positions begin behind its padding token, here behind 97 of them."""
    sizes = {"max_position_embeddings": 97 + 16, "is_decoder": True}
    assert tried("roberta", sizes).whole
    with pytest.raises(ConfigError, match=r"train\.seq_len = 17: .*raise model\.sizes\.max_pos"):
        tried("roberta", sizes, seq_len=17)


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "mixtral"])
def test_random_numbers_in_training_are_told(tried, model_type) -> None:
    none = {
        "gpt2": dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0),
        "opt": {"dropout": 0},
        "mixtral": {"router_aux_loss_coef": 0},
    }[model_type]
    some = {"mixtral": {**none, "router_jitter_noise": 0.1}}.get(model_type, {})
    assert tried(model_type, none).remarks == ()
    (remark,) = tried(model_type, some).remarks
    assert {"gpt2": "resid_pdrop = 0.1", "opt": "dropout = 0.1"}.get(
        model_type, "router_jitter_noise = 0.1"
    ) in remark
    assert "another train.micro_batch or number of workers" in remark
    assert " to 0 in model.sizes" in remark


def test_dropout_in_a_model_of_ones_own_is_told() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.0))
    (remark,) = remarks_of_own(net)
    assert "(dropout in 1)" in remark
    assert "give them p = 0" in remark
    assert remarks_of_own(nn.Linear(2, 2)) == ()


def test_a_model_whose_rows_depend_on_each_other_is_refused(checked) -> None:
    class Mixing(Made):
        def see(self, rows: torch.Tensor) -> torch.Tensor:
            return rows - rows.mean(dim=0, keepdim=True)

    with pytest.raises(ConfigError, match="depends on others in the same forward pass"):
        visibility.examine(checked().config, Mixing(), 61)


def test_a_model_that_ignores_position_ids_is_refused(checked) -> None:
    class Leaky(Made):
        def see(self, rows: torch.Tensor) -> torch.Tensor:
            return rows.cumsum(dim=1)

    visibility.examine(checked().config, Leaky(), 61)
    with pytest.raises(ConfigError, match="across document boundaries"):
        visibility.examine(checked({"data.document_mask": True}).config, Leaky(), 61)


class Made(nn.Module):
    """A model of our own: an embedding, and what is made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PretrainedConfig()
        self.embedding = nn.Embedding(61, 4)

    def forward(self, input_ids, position_ids=None, use_cache=False):
        return SimpleNamespace(logits=self.see(self.embedding(input_ids)))


def test_a_row_of_the_embedding_without_gradient_is_found(checked, monkeypatch) -> None:
    """As a padding index leaves it, which is taken out before: put it back."""

    def padded(lm: nn.Module) -> None:
        lm.model.embed_tokens.padding_idx = 0

    monkeypatch.setattr(visibility, "train_all_embeddings", padded)
    run = checked({"model.sizes.pad_token_id": 0, "model.sizes.tie_word_embeddings": True})
    resolved = hf_config.resolve(run.config, run.manifest.vocabulary)
    with pytest.raises(ConfigError, match="token 0 would never be learned"):
        tryout.try_out(run.config, resolved, 61)


def test_of_what_cannot_be_made_small_the_settings_are_told(tried, monkeypatch) -> None:
    monkeypatch.setattr(tryout, "small_of", lambda *_: None)
    found = tried("mixtral", {"attention_dropout": 0.2})
    assert not found.whole
    draws, balance = found.remarks
    assert "attention_dropout = 0.2" in draws
    assert balance.startswith("router_aux_loss_coef is not 0")


LARGE = {
    "70B": LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        bos_token_id=128000,
        eos_token_id=128001,
    ),
    "GPT-2": GPT2Config(),
    "windows": Qwen3MoeConfig(mlp_only_layers=[0], num_experts=16, router_aux_loss_coef=0.0),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_small_model_is_of_the_same_kind(name) -> None:
    whole = skeleton(LARGE[name])
    small = small_of(LARGE[name], whole)
    assert small is not None
    made = skeleton(small)
    assert weights(made) <= LIMIT < weights(whole)
    assert {type(m) for m in made.modules()} == {type(m) for m in whole.modules()}


@pytest.mark.parametrize("model_type", ["doge", "afmoe"])
def test_models_that_name_their_arguments_or_make_a_mask_are_trained(checked, model_type) -> None:
    run = checked({"model": {"type": model_type, "sizes": small_models.sizes_of(model_type)}})
    engine = engine_of(run)
    batch = next(local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1))
    losses = [float(engine.step(batch).sums) for _ in range(3)]
    assert losses[-1] < losses[0]

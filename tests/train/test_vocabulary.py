"""Tokens that are added to a pretrained model's: their rows, and what of the model stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inline_prepare import prepared_corpus, without_ray
from plain_runs import train
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from manta.config import dump
from manta.config.corpus import CorpusConfig
from manta.config.errors import ConfigError
from manta.corpus.manifest import Manifest
from manta.corpus.prepare import prepare
from manta.elastic.checks.preflight import Checked, try_model
from manta.model import hf_config, language_model
from manta.storage.run_folder import CONFIG
from manta.train.export import export, load_weights

LENGTH = 32
ADDED = ["<|im_start|>", "<|im_end|>"]
TEMPLATE = """
{%- for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content }}
{{- '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
Build = Callable[..., Checked]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model whose tokenizer has no tokens for chats."""
    corpus = prepared_corpus(tmp_path_factory.mktemp("text"))
    vocabulary = Manifest.read(str(corpus)).vocab_size
    folder = tmp_path_factory.mktemp("base") / "model"
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = LlamaConfig(**sizes, **heads, vocab_size=vocabulary, tie_word_embeddings=request.param)
    config.bos_token_id = config.eos_token_id = 0
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((corpus / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def chats(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations in a template whose tokens are added."""
    folder = tmp_path_factory.mktemp("chats")
    lines = [json.dumps({"prompt": f"{n}", "completion": f"{n + 1}"}) + "\n" for n in range(80)]
    (folder / "a.jsonl").write_text("".join(lines))
    (folder / "template.jinja").write_text(TEMPLATE)
    config = {
        "out": str(folder / "corpus"),
        "sources": [{"name": "a", "format": "jsonl", "paths": [str(folder / "a.jsonl")]}],
        "tokenizer": {"path": str(base), "add": ADDED},
        "chat": {"length": LENGTH, "template": str(folder / "template.jinja")},
        "split": {"train": 1.0, "validation": 0, "test": 0},
    }
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        prepare(CorpusConfig.model_validate(config), progress=False)
    return folder / "corpus"


@pytest.fixture
def tuned(checked: Build, chats: Path, base: Path) -> Build:
    def build(**model: Any) -> Checked:
        run = checked(
            {
                "corpus": str(chats),
                "model": {"pretrained": str(base), "grow_vocabulary": True, **model},
                "objective.type": "chat",
                "data.document_mask": True,
                "train": {"seq_len": LENGTH, "micro_batch": 4},
                "schedule": {"horizon": LENGTH * 4 * 6, "lr": 1e-2, "batch": 4},
            }
        )
        run.run_dir.mkdir(parents=True, exist_ok=True)
        (run.run_dir / CONFIG).write_text(dump(run.config))
        return run

    return build


def test_new_rows_are_the_mean_and_old_logits_stay(tuned: Build, base: Path) -> None:
    run = tuned()
    resolved = hf_config.resolve(run.config, run.manifest.vocabulary)
    grown = language_model.build(run.config, resolved).eval()  # type: ignore[arg-type]
    before = AutoModelForCausalLM.from_pretrained(base).eval()
    size, tokens = before.config.vocab_size, torch.arange(20)[None]
    assert grown.config.vocab_size == size + len(ADDED) == run.manifest.vocab_size
    for table in (grown.get_input_embeddings(), grown.get_output_embeddings()):
        torch.testing.assert_close(table.weight[size:], table.weight[:size].mean(0).expand(2, -1))
    assert torch.equal(grown(tokens).logits[..., :size], before(tokens).logits)
    tied = before.config.tie_word_embeddings
    same = grown.get_input_embeddings().weight is grown.get_output_embeddings().weight
    assert same == tied


def test_a_grown_model_trains_at_any_world_size_and_is_exported(
    tuned: Build, tmp_path: Path
) -> None:
    run = tuned()
    rows = train(run, 2)
    out = export(run.run_dir, tmp_path / "model")
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert rows[-2]["loss"] < rows[1]["loss"]
    assert lm.get_input_embeddings().weight.shape[0] == run.manifest.vocab_size
    ids = tokenizer("<|im_start|>user")["input_ids"]
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>") == run.manifest.vocab_size - 2
    assert lm.generation_config.eos_token_id is not None


def test_new_rows_beside_an_adapter_are_exported_and_ties_stay(
    tuned: Build, base: Path, tmp_path: Path
) -> None:
    tied = LlamaConfig.from_pretrained(base).tie_word_embeddings
    run = tuned(adapter={"rank": 2}, train=["*embed_tokens*", *([] if tied else ["*lm_head*"])])
    train(run, 1)
    out = export(run.run_dir, tmp_path / "model", merge=True)
    lm, tokens = AutoModelForCausalLM.from_pretrained(out).eval(), torch.arange(20)[None]
    expected = load_weights(run.run_dir, run.config, None).eval()
    with torch.no_grad():
        torch.testing.assert_close(lm(tokens).logits, expected(tokens).logits, rtol=1e-4, atol=1e-4)
    tables = [lm.get_input_embeddings().weight, lm.get_output_embeddings().weight]
    assert (tables[0] is tables[1]) == lm.config.tie_word_embeddings == tied
    assert (len(load_file(out / "model.safetensors")) + tied) == len(lm.state_dict())


def test_what_would_never_be_learned_is_refused(tuned: Build, base: Path) -> None:
    tied = LlamaConfig.from_pretrained(base).tie_word_embeddings
    frozen = "model.embed_tokens and lm_head would be frozen"
    with pytest.raises(ConfigError, match=frozen):
        try_model(tuned(adapter={"rank": 2}))
    embedded = {"adapter": {"rank": 2}, "train": ["*embed_tokens*"]}
    if tied:
        assert try_model(tuned(**embedded)).trained > 0
        return
    with pytest.raises(ConfigError, match=r"as lm_head would be frozen; .* \['\*lm_head\*'\]"):
        try_model(tuned(**embedded))


def test_without_being_asked_a_model_does_not_grow(tuned: Build) -> None:
    with pytest.raises(ConfigError, match=r"set model.grow_vocabulary: true"):
        try_model(tuned(grow_vocabulary=False))

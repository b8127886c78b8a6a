"""Adapters and frozen weights: as exact as any run, and saved without what is frozen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_runs import Build, adapted, weights_of
from inline_prepare import prepared_corpus
from peft import LoraConfig, get_peft_model
from plain_runs import losses, proof, train
from safetensors.torch import load_file
from saved_models import saved_llama
from torch.multiprocessing import ProcessRaisedException
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from manta.config.errors import ConfigError, RunError
from manta.corpus.manifest import Manifest
from manta.elastic.checks.preflight import Checked, try_model
from manta.elastic.checks.warm_start import export_if_needed, exported_folder
from manta.model.adapter import without_adapter
from manta.record.run_config import recorded_config
from manta.state.checkpoint_files import newest
from manta.state.dcp import read_metadata
from manta.storage.run_folder import CHECKPOINTS
from manta.train.export import export, generate, load_weights

# The checkpoint of step 8 is begun once that of step 4 is whole: a run that dies after it has one.
DEATH = 9
LORA = {"rank": 4}


def model_in(folder: Path, vocabulary: int) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = LlamaConfig(**sizes, **heads, **special, vocab_size=vocabulary, initializer_range=0.3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared from text, so that it has a tokenizer to export with a model."""
    return prepared_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A model of Transformers' in a folder."""
    vocabulary = Manifest.read(str(corpus)).vocab_size
    assert vocabulary is not None
    return model_in(tmp_path_factory.mktemp("base") / "model", vocabulary)


@pytest.fixture
def tuned(checked: Build, corpus: Path, base: Path) -> Build:
    def build(name: str = "test", model: dict[str, Any] | None = None, **changes: Any) -> Checked:
        section = {"pretrained": str(base), **({"adapter": LORA} if model is None else model)}
        return adapted(checked, name, corpus, section, **changes)

    return build


def saved_names(run: Checked) -> set[str]:
    with (newest(run.run_dir / CHECKPOINTS) / ".metadata").open("rb") as file:
        return set(read_metadata(file, "checkpoint").state_dict_metadata)


@pytest.mark.parametrize("shard", [False, True])
def test_the_same_losses_at_any_world_size_and_through_kills(tuned: Build, shard: bool) -> None:
    alone = tuned("alone")
    expected = losses(train(alone, 1))
    assert expected[12] < 0.9 * expected[1]

    mixed = tuned("mixed", **{"parallel.shard": shard})
    train(mixed, 3, die_after=DEATH)
    found = train(mixed, 2, attempt=2)
    assert [row["resumed"] > 0 for row in found if "resumed" in row] == [False, True]
    assert proof(mixed) == proof(alone)
    for row in found:
        if "loss" in row:
            assert row["loss"] == pytest.approx(expected[row["step"]], rel=1e-5)
    saved = {name for name in saved_names(mixed) if "param_groups" not in name}
    assert {name for name in saved if "lora_" not in name} == {"base"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel.shard": True},
        {"model": {"adapter": {**LORA, "dora": True, "rslora": True, "targets": ["q_proj"]}}},
        {
            "model": {"adapter": LORA, "frozen_dtype": "bf16"},
            "train": {"seq_len": 16, "micro_batch": 4, "precision": "bf16", "param_dtype": "bf16"},
        },
        {"model": {"freeze": ["model.layers.{0..0}.*", "*embed_tokens*"]}},
    ],
    ids=["ddp", "fsdp", "dora", "bf16", "freeze"],
)
def test_a_resume_is_exact_to_the_bit(tuned: Build, changes: dict[str, Any]) -> None:
    whole = tuned("whole", **changes)
    undisturbed = losses(train(whole, 2))
    killed = tuned("killed", **changes)
    train(killed, 2, die_after=DEATH)
    rows = train(killed, 2, attempt=2)
    assert [row["resumed"] > 0 for row in rows if "resumed" in row] == [False, True]
    assert losses(rows) == undisturbed
    found = weights_of(killed)
    for name, weight in weights_of(whole).items():
        assert torch.equal(weight, found[name]), name


def test_only_what_is_named_is_trained(tuned: Build, base: Path) -> None:
    run = tuned("some", {"train": ["*layers.1.*norm*", "lm_head.weight"]})
    train(run, 1)
    before = load_file(base / "model.safetensors")
    moved = {name for name, one in weights_of(run).items() if not torch.equal(one, before[name])}
    norms = {f"model.layers.1.{n}_layernorm.weight" for n in ("input", "post_attention")}
    assert moved == norms | {"lm_head.weight"}


def test_exported_as_adapter_and_merged_it_computes_the_same(
    tuned: Build, tmp_path: Path, base: Path
) -> None:
    run, told = tuned("tuned"), list[str]()
    train(run, 1)
    alone = export(run.run_dir, tmp_path / "adapter", tell=told.append)
    merged = export(run.run_dir, tmp_path / "merged", merge=True, tell=told.append)
    assert all("KL divergence" in line for line in told)
    assert len(told) == 2
    assert not (alone / "model.safetensors").exists()
    assert (alone / "adapter_model.safetensors").stat().st_size < 40_000

    tokens = AutoTokenizer.from_pretrained(alone)("some text", return_tensors="pt")["input_ids"]
    lm = load_weights(run.run_dir, run.config, None).eval()
    with torch.no_grad():
        expected = lm(tokens).logits
        # Merged weights add up in another order, which some processors round by more than others.
        for folder, close in ((alone, 1e-5), (merged, 1e-4)):
            found = AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits
            torch.testing.assert_close(found, expected, rtol=close, atol=close)
        original = AutoModelForCausalLM.from_pretrained(base).eval()(tokens).logits
        assert not torch.allclose(original, expected, atol=1e-2)
        with without_adapter(lm):
            assert torch.equal(lm(tokens).logits, original)
        assert torch.equal(lm(tokens).logits, expected)
    texts = {
        generate(where, "some text", tokens=8, temperature=0, seed=0)
        for where in (run.run_dir, alone, merged)
    }
    assert len(texts) == 1


def test_an_adapter_whose_base_is_gone_says_so(tuned: Build, base: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(base, tmp_path / "own"))
    lm = AutoModelForCausalLM.from_pretrained(own)
    folder = tmp_path / "adapter"
    get_peft_model(lm, LoraConfig(task_type="CAUSAL_LM", r=2)).save_pretrained(folder)
    asked: dict[str, Any] = {"tokens": 4, "temperature": 0, "seed": 0}
    own.rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"'.*own', which can't be .*: there is no such folder; .*"):
        generate(folder, "text", **asked)
    with pytest.raises(ConfigError, match=r"model.pretrained = '.*': a folder of PEFT.* --merge"):
        tuned("on_adapter", {"pretrained": str(folder)})
    settings = json.loads((folder / "adapter_config.json").read_text())
    for name, said in (
        (None, "names no model that the adapter is for: set base_model_name_or_path"),
        ("org/model", r"an adapter for the model 'org/model', which can't be loaded: "),
        (str(saved_llama(tmp_path / "other")), r"the adapter does not fit '.*other'|can't be load"),
    ):
        settings["base_model_name_or_path"] = name
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        with pytest.raises(RunError, match=said):
            generate(folder, "text", **asked)


def test_another_run_begins_from_the_merged_model(tuned: Build) -> None:
    first = tuned("first")
    rows = train(first, 1)
    folder = exported_folder(str(first.run_dir))
    assert folder is not None
    second = tuned("second", {"pretrained": str(folder), "adapter": LORA})
    export_if_needed(second.config)
    begun = next(row for row in train(second, 1) if row.get("step") == 0)
    ended = [row["val_loss"] for row in rows if "val_loss" in row][-1]
    assert begun["val_loss"] == pytest.approx(ended, rel=1e-5)


def test_another_base_is_refused(tuned: Build, base: Path, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    run = tuned("run", {"pretrained": str(own), "adapter": LORA})
    train(run, 1)
    lm = AutoModelForCausalLM.from_pretrained(own)
    with torch.no_grad():
        lm.model.layers[0].mlp.up_proj.weight[3, 5] += 1e-3
    lm.save_pretrained(own)
    with pytest.raises(ProcessRaisedException, match=r"the frozen weights have changed: .* anew"):
        train(run, 1, attempt=2)
    with pytest.raises(RunError, match="the frozen weights have changed"):
        export(run.run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"adapter": LORA, "freeze": ["*"]}, "'freeze' and 'adapter' both say what is frozen"),
        ({"train": ["lm_head*"], "freeze": ["*"]}, "'freeze' and 'train' both say"),
        ({"frozen_dtype": "bf16"}, "'frozen_dtype' is for frozen weights"),
        ({"adapter": LORA, "frozen_dtype": "bf16"}, "set train.precision to 'bf16' too"),
        ({"adapter": {"rank": 0}}, "rank"),
        ({"pretrained": None, "type": "llama", "adapter": LORA}, "'adapter' is for a pretrained"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(
    tuned: Build, model: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        tuned("bad", model)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"freeze": ["*"]}, r"model.freeze = \['\*'\]: nothing is left to train"),
        ({"train": ["*.layer.1.*"]}, r"model.train: '\*.layer.1.\*' is the name of no parameter"),
        ({"adapter": {"targets": ["query"]}}, r"model.adapter.targets = \['query'\]: .*query"),
        ({"adapter": {"targets": ["lm_head"]}}, "'lm_head' is the output layer"),
        ({"adapter": {"targets": ["norm"]}}, "model.adapter.targets"),
    ],
)
def test_what_fits_no_layer_is_refused_before_a_worker_starts(
    tuned: Build, model: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        try_model(tuned("bad", model))


def test_dropout_is_remarked(tuned: Build) -> None:
    (remark,) = try_model(tuned("d", {"adapter": {"rank": 2, "dropout": 0.1}})).remarks
    assert "model.adapter.dropout = 0.1" in remark


def test_beside_trained_weights_only_a_merged_model_is_whole(tuned: Build, tmp_path: Path) -> None:
    run = tuned("both", {"adapter": LORA, "train": ["model.norm.weight"]})
    train(run, 1)
    with pytest.raises(RunError, match="which a folder of PEFT does not hold: export with --merge"):
        export(run.run_dir, tmp_path / "adapter")
    export(run.run_dir, tmp_path / "merged", merge=True)
    assert recorded_config(run.run_dir).model.train == ["model.norm.weight"]

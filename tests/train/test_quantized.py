"""A base in 4 or 8 bits: as exact as any, smaller, and exported for the base as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_runs import Build, adapted, weights_of
from inline_prepare import prepared_corpus
from peft import PeftModel
from plain_runs import losses, proof, train
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig
from transformers.pytorch_utils import Conv1D

from manta.config import RunConfig, load
from manta.config.errors import ConfigError, RunError
from manta.config.model import ModelSection
from manta.corpus.manifest import Manifest
from manta.elastic.checks.fork_run import fork_run
from manta.elastic.checks.preflight import Checked, check, check_continues, try_model
from manta.model.quantized import QuantizedLinear, check_driver, quantize, whole_numel
from manta.model.trainable import choose_trained, hold_frozen
from manta.storage.run_folder import CONFIG
from manta.train.export import export, generate, load_weights
from manta.train.throughput import flops_per_token

bnb = pytest.importorskip("bitsandbytes", reason="the extra 'quantize' is not installed")

DEATH = 9
FORMS = ["nf4", "int8"]


def llama(vocabulary: int) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = LlamaConfig(**sizes, **heads, **special, vocab_size=vocabulary, initializer_range=0.2)
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    llama(Manifest.read(str(corpus)).vocab_size or 0).save_pretrained(folder)
    return folder


@pytest.fixture
def tuned(checked: Build, corpus: Path, base: Path) -> Build:
    def build(name: str, form: str | None, **changes: Any) -> Checked:
        model = {"pretrained": str(base), "adapter": {"rank": 4}, "quantize": form}
        section = {**model, **changes.pop("model", {})}
        return adapted(checked, name, corpus, section, **changes)

    return build


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_a_layer_computes_by_the_librarys_weights(form: Any, kind: Any) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(128, 96) if kind is nn.Linear else Conv1D(96, 128)
    nn.init.normal_(layer.weight)
    held = QuantizedLinear(layer.requires_grad_(False), form)
    rows = layer.weight if kind is nn.Linear else layer.weight.T
    if form == "nf4":
        asked = {"requires_grad": False, "compress_statistics": False, "quant_type": "nf4"}
        theirs = bnb.nn.Params4bit(rows.contiguous(), **asked).to("cpu")
        expected = bnb.functional.dequantize_4bit(theirs.data, theirs.quant_state)
    else:
        codes, scales, _ = bnb.functional.int8_vectorwise_quant(rows.contiguous())
        expected = bnb.functional.int8_vectorwise_dequant(codes, scales)
    assert torch.equal(held.weight, expected if kind is nn.Linear else expected.T)
    assert held.weight.shape == layer.weight.shape
    assert (held.weight - layer.weight).norm() < {"nf4": 0.12, "int8": 0.02}[form] * rows.norm()

    inputs = torch.randn(5, 128, requires_grad=True)
    slope = torch.randn(5, 96)
    held(inputs).backward(slope)
    torch.testing.assert_close(inputs.grad, slope @ expected)
    again = held(inputs[2:3])
    torch.testing.assert_close(held(inputs)[2:3], again, rtol=1e-5, atol=1e-5)
    small = sum(one.nbytes for one in (held.codes, held.scales))
    assert small <= {"nf4": 4.5 / 8, "int8": 1 + 4 / 128}[form] * rows.numel()
    empty = QuantizedLinear(kind(*((96, 128) if kind is Conv1D else (128, 96))).to("meta"), form)
    assert [(p.shape, p.dtype) for p in empty.parameters()] == [
        (p.shape, p.dtype) for p in held.parameters()
    ]


def test_the_output_layer_shared_weights_and_what_is_trained_are_left_as_they_are() -> None:
    lm = llama(32).requires_grad_(False)
    first, second = (layer.mlp for layer in lm.model.layers)
    first.up_proj.weight = second.up_proj.weight
    first.down_proj.requires_grad_(True)
    second.gate_proj = first.gate_proj  # one layer at two places stays one
    quantize(lm, "int8")
    held = {name for name, one in lm.named_modules() if isinstance(one, QuantizedLinear)}
    assert not any(name.endswith(("lm_head", "up_proj", "0.mlp.down_proj")) for name in held)
    assert {"model.layers.0.mlp.gate_proj", "model.layers.1.mlp.down_proj"} <= held
    assert second.gate_proj is first.gate_proj


@pytest.mark.parametrize("form", FORMS)
def test_flops_are_those_of_the_whole_weights(form: Any) -> None:
    counted = []
    for section in ({}, {"quantize": form}):
        lm = llama(32)
        model = ModelSection(pretrained="base", adapter={"rank": 2}, **section)
        choose_trained(lm, model, 0)
        whole = whole_numel(lm)
        hold_frozen(lm, model)
        assert whole_numel(lm) == whole
        counted.append(flops_per_token(lm, lm.config, 16))
    assert counted[0] == counted[1]


def test_the_same_losses_split_over_ranks_and_through_a_kill(tuned: Build) -> None:
    alone = tuned("alone", "nf4")
    expected = losses(train(alone, 1))
    assert expected[12] < 0.9 * expected[1]
    mixed = tuned("mixed", "nf4", **{"parallel.shard": True})
    train(mixed, 3, die_after=DEATH)
    found = train(mixed, 2, attempt=2)
    assert [row["resumed"] > 0 for row in found if "resumed" in row] == [False, True]
    assert proof(mixed) == proof(alone)
    for row in found:
        if "loss" in row:
            assert row["loss"] == pytest.approx(expected[row["step"]], rel=1e-5)


def test_compiled_it_is_the_same_but_for_rounding(tuned: Build) -> None:
    short = {"schedule.horizon": 16 * 7 * 3, "eval.every": None}
    curves = [
        losses(train(tuned(f"{on}", "nf4", **{"train.compile": on}, **short), kernels=False))
        for on in (False, True)
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_a_resume_is_exact_to_the_bit(tuned: Build) -> None:
    bf16 = {"seq_len": 16, "micro_batch": 4, "precision": "bf16", "param_dtype": "bf16"}
    model = {"frozen_dtype": "bf16", "adapter": {"rank": 4, "dora": True}}
    changes = {"train": bf16, "model": model}
    whole = tuned("whole", "nf4", **changes)
    undisturbed = losses(train(whole, 2))
    killed = tuned("killed", "nf4", **changes)
    train(killed, 2, die_after=DEATH)
    assert losses(train(killed, 2, attempt=2)) == undisturbed
    found = weights_of(killed)
    for name, weight in weights_of(whole).items():
        assert torch.equal(weight, found[name]), name


def test_reproducible_at_any_world_size(tuned: Build) -> None:
    exact = {"train.reproducible": "any_world_size"}
    one, three = tuned("one", "int8", **exact), tuned("three", "int8", **exact)
    assert losses(train(one, 1)) == losses(train(three, 3))
    found = weights_of(three)
    assert all(torch.equal(weight, found[name]) for name, weight in weights_of(one).items())


def test_exported_for_the_base_as_it_was(tuned: Build, base: Path, tmp_path: Path) -> None:
    run, told = tuned("tuned", "nf4"), list[str]()
    train(run, 1)
    alone = export(run.run_dir, tmp_path / "adapter", tell=told.append)
    merged = export(run.run_dir, tmp_path / "merged", merge=True, tell=told.append)
    assert [line.split(":")[0] for line in told] == 2 * [
        "written for the base as it was, and trained on it in nf4",
        "loaded again and compared",
    ]
    rows = torch.arange(12)[None]
    with torch.no_grad():
        adapted, whole = (
            AutoModelForCausalLM.from_pretrained(one).eval()(rows).logits for one in (alone, merged)
        )
        torch.testing.assert_close(adapted, whole, rtol=1e-4, atol=1e-4)
        trained = load_weights(run.run_dir, run.config, None).eval()
        assert not any(isinstance(one, QuantizedLinear) for one in trained.modules())
        original = AutoModelForCausalLM.from_pretrained(base).eval()(rows).logits
        near = (trained(rows).logits - whole).norm()
        assert 0 < near < (original - whole).norm()
        # As others load the adapter on a base in NF4, it is what was trained.
        asked = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        settings = BitsAndBytesConfig(**asked, bnb_4bit_compute_dtype=torch.float32)
        options = {"quantization_config": settings, "dtype": torch.float32}
        theirs = AutoModelForCausalLM.from_pretrained(base, **options)
        # In training mode: on CPUs with AVX512-BF16 bitsandbytes evaluates in bf16.
        with_adapter = PeftModel.from_pretrained(theirs, str(alone)).train()
        torch.testing.assert_close(with_adapter(rows).logits, trained(rows).logits)
    assert generate(run.run_dir, "some text", tokens=4, temperature=0, seed=0)


def test_only_a_fork_goes_on_in_another_format(tuned: Build, checked: Build) -> None:
    run = tuned("run", "int8")
    rows = train(run, 1)
    other = check(run.config.model_copy(update={"model": tuned("x", "nf4").config.model}))
    with pytest.raises(RunError, match=r"model\.quantize"):
        check_continues(other)
    child = fork_run(run.run_dir, 8, "child", ["model.quantize=nf4"])
    forked = check(load(child / CONFIG, RunConfig))
    check_continues(forked)
    begun = next(row for row in train(forked, 1) if row.get("step") == 9)
    expected = losses(rows)[9]
    assert begun["loss"] != expected
    assert begun["loss"] == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"adapter": None}}, "set 'adapter', or leave 'quantize' out"),
        ({"model": {"quantize": "fp4"}}, "quantize"),
        (
            {"objective": {"type": "preference", "reference": "precomputed"}},
            r"model.quantize = 'nf4' rounds weights of the model that is trained",
        ),
    ],
)
def test_what_it_is_not_for_is_refused(tuned: Build, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tuned("bad", "nf4", **changes)


def test_what_a_device_does_not_support_is_refused_before_a_worker_starts(
    tuned: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tuned("run", "nf4")
    tried = try_model(run)
    assert tried.quantized == 2 * (4 * 64 * 64 + 3 * 64 * 128)
    assert tried.frozen_bytes < 4 * (tried.weights - tried.trained) / 2
    monkeypatch.setattr(torch.version, "cuda", "99.1")
    with pytest.raises(ConfigError, match=r"has no library for CUDA 99\.1"):
        check_driver("nf4", on_gpus=True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    check_driver("nf4", on_gpus=True)

    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr("bitsandbytes.functional.dequantize_4bit", fail)
    with pytest.raises(ConfigError, match=r"can't hold weights so on this device \(cpu\): no ker"):
        try_model(run)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'manta-train\[quantize\]'"):
        try_model(run)

"""The exported model: its tokenizer is the corpus's, its text ends where documents end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_tokenizers import MAKERS, SAID, TEXTS
from plain_runs import engine_of, loop_of, streams_of
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaTokenizer
from whole_runs import train_whole

from manta.config.corpus import CorpusConfig
from manta.config.errors import RunError
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest
from manta.corpus.prepare import prepare
from manta.elastic.checks.preflight import Checked, check
from manta.train import export_tokenizer
from manta.train.export import export, generate

pytestmark = pytest.mark.usefixtures("inline")

WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": WIDTHS,
    "qwen2": {**WIDTHS, "layer_types": ["full_attention"] * 2},
    "qwen3": {**WIDTHS, "head_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "olmo2": WIDTHS,
    "gemma": {**WIDTHS, "head_dim": 16},
}


def corpus_of(folder: Path, kind: str | None, **keys: Any) -> Manifest:
    """A corpus of real text: by a tokenizer of this kind, or by one trained on it."""
    documents = folder / "documents.jsonl"
    lines = [{"text": f"{i} {text}"} for i in range(12) for text in TEXTS]
    folder.mkdir(parents=True, exist_ok=True)
    documents.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer: dict[str, Any] = {"vocab_size": 300}
    if kind is not None:
        tokenizer = {"path": str(MAKERS[kind](folder / kind)), **SAID.get(kind, {}), **keys}
    config = {
        "out": str(folder / "corpus"),
        "sources": [{"name": "made", "format": "jsonl", "paths": [str(documents)]}],
        "tokenizer": tokenizer,
    }
    return prepare(CorpusConfig.model_validate(config), progress=False)


def checked_run(checked: Any, corpus: Path, model: str | Path) -> Checked:
    """A run of one step, from scratch or from an exported model."""
    section = {"type": model, "sizes": MODELS[model]} if isinstance(model, str) else None
    base = checked({"corpus": str(corpus), "schedule.horizon": 16 * 7}).config.model_dump()
    base["run"]["name"] = "scratch" if section else "tuned"
    base["model"] = section or {"pretrained": str(model)}
    base["wandb"]["mode"] = "disabled"
    return check(RunConfig.model_validate(base))


def run_of(checked: Any, corpus: Path, model: str | Path) -> Path:
    """The folder of such a run, with as much in it as an export needs."""
    run = checked_run(checked, corpus, model)
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "config.yaml").write_text(yaml.safe_dump(run.config.model_dump(mode="json")))
    loop_of(run, engine_of(run), run.run_dir / "rows.jsonl").run(streams_of(run))
    return run.run_dir


def assert_same_tokenizer(folder: Path, corpus: Path, manifest: Manifest, **how: Any) -> None:
    own = Tokenizer.from_file(str(corpus / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(folder, **how)
    for text in TEXTS:
        expected = own.encode(text, add_special_tokens=False).ids
        assert auto(text)["input_ids"] == [*manifest.begins_with, *expected]
    assert auto.eos_token_id == manifest.eos_id


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        *[(kind, "llama") for kind in (*MAKERS, None)],
        *[("llama2", model) for model in MODELS if model != "llama"],
    ],
)
def test_the_exported_tokenizer_is_the_one_of_the_corpus(tmp_path, checked, kind, model):
    manifest = corpus_of(tmp_path, kind)
    corpus = tmp_path / "corpus"
    out = export(run_of(checked, corpus, model), tmp_path / "model")

    assert (out / "tokenizer.json").read_bytes() == (corpus / "tokenizer.json").read_bytes()
    assert_same_tokenizer(out, corpus, manifest)
    if model == "qwen2":  # whose own class is put in place of another one
        assert_same_tokenizer(out, corpus, manifest, trust_remote_code=True)
    for told in (GenerationConfig.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)):
        settings = getattr(told, "config", told)
        assert settings.eos_token_id == manifest.eos_id
        assert settings.bos_token_id == manifest.bos_id
        assert settings.pad_token_id == manifest.pad_id


def test_a_tokenizer_that_transformers_changes_is_not_exported(tmp_path, checked, monkeypatch):
    """Here by a class that does: what a later version of Transformers may do."""
    corpus_of(tmp_path, "llama2")
    run = run_of(checked, tmp_path / "corpus", "llama")
    monkeypatch.setattr(export_tokenizer, "AutoTokenizer", LlamaTokenizer)
    with pytest.raises(RunError, match=r"type llama: .* LlamaTokenizer, which encodes \d+ of \d+"):
        export(run, tmp_path / "model")
    assert not [path for path in tmp_path.iterdir() if "model" in path.name]


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_all_files_have_the_mode_that_the_umask_gives(tmp_path, checked, umask):
    """Those of a corpus, of a run and its checkpoints, and of an export."""
    corpus_of(tmp_path / "made", "llama2")
    run = checked_run(checked, tmp_path / "made" / "corpus", "llama")
    train_whole(run)
    export(run.run_dir, tmp_path / "model", beside={"README.md": "a model"})
    for folder in (tmp_path / "made" / "corpus", run.run_dir, tmp_path / "model"):
        found = [folder, *folder.rglob("*")]
        assert len(found) > 3
        modes = {str(p): oct(p.stat().st_mode & 0o777) for p in found}
        wanted = {str(p): oct(0o750 if p.is_dir() else 0o640) for p in found}
        assert modes == wanted


@pytest.mark.parametrize(("kind", "begin"), [("llama2", 1), ("gpt2", 0), (None, 0)])
def test_a_text_begins_as_documents_do(tmp_path, checked, monkeypatch, kind, begin):
    """From BOS, or after the EOS of the document before; also without a prompt."""
    corpus_of(tmp_path, kind)
    run = run_of(checked, tmp_path / "corpus", "llama")
    out = export(run, tmp_path / "model")
    seen = []
    kind_of = type(AutoModelForCausalLM.from_pretrained(out))
    generating = kind_of.generate

    def noted(self: Any, input_ids: torch.Tensor, **settings: Any) -> Any:
        seen.append(input_ids.tolist()[0])
        return generating(self, input_ids=input_ids, **settings)

    monkeypatch.setattr(kind_of, "generate", noted)
    for where in (run, out):
        assert generate(where, "", tokens=4, temperature=0.0, seed=0) is not None
        generate(where, "The", tokens=4, temperature=0.0, seed=0)
    assert seen[:2] == seen[2:]
    assert seen[0] == [begin]
    assert (seen[1][0] == 1) == (kind == "llama2")


def test_a_text_ends_where_documents_end(tmp_path, checked, monkeypatch):
    """The end of an untrained Llama would be token 2, which is a letter here."""
    manifest = corpus_of(tmp_path, None)
    run = run_of(checked, tmp_path / "corpus", "llama")
    model = AutoModelForCausalLM.from_pretrained(export(run, tmp_path / "model"))
    for token, length in ((2, 9), (manifest.eos_id, 2)):
        bias = torch.zeros(300)
        bias[token] = 1e9
        model.lm_head.register_forward_hook(lambda *got, bias=bias: got[2] + bias)
        made = model.generate(input_ids=torch.tensor([[5]]), max_new_tokens=8, do_sample=False)
        assert made.shape[1] == length
        model.lm_head._forward_hooks.clear()


def test_a_pretrained_model_generates_as_before_and_ends_with_documents(tmp_path, checked):
    corpus_of(tmp_path, "llama3")
    first = run_of(checked, tmp_path / "corpus", "llama")
    base = export(first, tmp_path / "base")
    told = {"temperature": 0.3, "do_sample": True, "eos_token_id": [7, 8]}
    (base / "generation_config.json").write_text(json.dumps(told))
    tuned = run_of(checked, tmp_path / "corpus", base)
    made = GenerationConfig.from_pretrained(export(tuned, tmp_path / "model"))
    assert (made.temperature, made.do_sample, made.eos_token_id) == (0.3, True, [7, 8, 1])


def test_without_anything_to_begin_from_a_prompt_is_asked_for(tmp_path, checked):
    corpus_of(tmp_path, None)
    out = export(run_of(checked, tmp_path / "corpus", "qwen3"), tmp_path / "model")
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        told = json.loads((out / name).read_text())
        left = {k: v for k, v in told.items() if not k.startswith(("eos_token", "bos_token"))}
        (out / name).write_text(json.dumps(left))
    with pytest.raises(
        RunError, match=r"neither a BOS nor an EOS .*: give the beginning of a text"
    ):
        generate(out, "", tokens=4, temperature=0.0, seed=0)

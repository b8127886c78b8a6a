"""Talking to a model: it is asked by the ids it was trained after, and stops where answers end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_templates import chat_tokenizer
from inline_prepare import without_ray
from plain_runs import train
from tiny_batches import llama
from transformers import AutoTokenizer, GenerationConfig

from manta.config import dump
from manta.config.corpus import CorpusConfig
from manta.config.errors import RunError
from manta.corpus.prepare import prepare
from manta.storage.run_folder import CONFIG
from manta.train.chat_session import ChatSession
from manta.train.export import export

# One conversation, learned by heart; its template ends answers by another token than the EOS.
TURNS = ["Who is it?", "A friend.", "And you?", "Nobody."]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    tokenizer = chat_tokenizer(tmp_path / "tokenizer")
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(TURNS)]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    config = {
        "out": str(tmp_path / "corpus"),
        "sources": [{"name": "a", "format": "jsonl", "paths": [str(tmp_path / "a.jsonl")]}],
        "tokenizer": {"path": str(tokenizer)},
        "chat": {"length": 96},
        "split": {"train": 1, "validation": 0, "test": 0},
    }
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        prepare(CorpusConfig.model_validate(config), progress=False)
    return tmp_path / "corpus"


def test_a_model_says_what_it_was_taught_and_stops(checked, chats: Path, tmp_path: Path) -> None:
    run = checked(
        {
            "corpus": str(chats),
            "model.sizes": SIZES,
            "objective.type": "chat",
            "data.document_mask": True,
            "train.seq_len": 96,
            "schedule": {"horizon": 96 * 40, "lr": 1e-2, "batch": 1},
        }
    )
    train(run)
    (run.run_dir / CONFIG).write_text(dump(run.config))
    exported = export(run.run_dir, tmp_path / "model")
    stops = AutoTokenizer.from_pretrained(exported).convert_tokens_to_ids(["</s>", "<|im_end|>"])
    assert set(GenerationConfig.from_pretrained(exported).eos_token_id) == set(stops)
    for where in (run.run_dir, exported):
        session = ChatSession(where, system="", tokens=40, temperature=0, seed=0)
        for question, answer in zip(TURNS[::2], TURNS[1::2], strict=True):
            said: list[str] = []
            assert session.answer(question, said.append) > 0
            assert "".join(said) == answer
        assert [message["content"] for message in session.messages] == TURNS
    with pytest.raises(RunError, match=r"has [\d,]+ tokens, and the model's context [\d,]+: begin"):
        session.answer("and " * 3000, said.append)


def test_a_model_of_text_is_refused(tmp_path: Path) -> None:
    folder = chat_tokenizer(tmp_path / "model", template=None)
    llama().save_pretrained(folder)
    for where, said in ((folder, "no chat template"), (tmp_path, "neither the directory of a run")):
        with pytest.raises(RunError, match=said):
            ChatSession(where, system="", tokens=4, temperature=0, seed=0)

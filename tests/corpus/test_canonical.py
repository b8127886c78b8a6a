"""What encodes a corpus is what anyone loads from its folder, for tokenizers of each kind."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from made_tokenizers import MAKERS, SAID, TEXTS, llama2, write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from manta.config.corpus import TokenizerSection
from manta.config.errors import CorpusError
from manta.corpus.canonical import CONFIG_FILE, TOKENIZER_FILE, canonical
from manta.corpus.inspect import inspect
from manta.corpus.manifest import Manifest
from manta.corpus.reloaded import difference
from manta.corpus.tokenizer import CorpusTokenizer, load, of_corpus

# The token that documents begin with, by default, and the one for padding.
BOS = {"llama2": "<s>", "bert": "[CLS]", "llama3": "<|begin|>"}
PADDING = {"bert": "[PAD]", "llama3": "<|pad|>", "t5": "<pad>"}


def loaded(kind: str, folder: Path, **keys: Any) -> CorpusTokenizer:
    """The tokenizer of a kind, as a corpus takes it."""
    return load(TokenizerSection(path=str(folder), **SAID.get(kind, {}), **keys))


def saved(tokenizer: CorpusTokenizer, folder: Path) -> Path:
    folder.mkdir()
    for name, content in tokenizer.files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", MAKERS)
def test_transformers_loads_what_encodes_the_corpus(tmp_path, kind):
    original = MAKERS[kind](tmp_path / "original")
    own = Tokenizer.from_file(str(original / TOKENIZER_FILE))
    own.no_truncation()
    own.encode_special_tokens = True
    tokenizer = loaded(kind, original)
    folder = saved(tokenizer, tmp_path / "saved")
    auto = AutoTokenizer.from_pretrained(folder)

    for text in TEXTS:
        expected = own.encode(text, add_special_tokens=False).ids
        found = auto(text, split_special_tokens=True)["input_ids"]
        assert found == [*tokenizer.begins_with, *expected]
        assert auto(text, add_special_tokens=False, split_special_tokens=True).input_ids == expected
    assert difference(auto, tokenizer, folder / TOKENIZER_FILE, TEXTS) is None
    # Nothing was added in loading it, not even to the vocabulary.
    assert auto.backend_tokenizer.get_vocab() == own.get_vocab()
    assert auto.eos_token_id == tokenizer.eos_id
    assert auto.num_special_tokens_to_add() == len(tokenizer.begins_with)
    assert (tokenizer.bos, auto.bos_token) == (
        BOS.get(kind),
        "<|endoftext|>" if kind == "gpt2" else BOS.get(kind),
    )
    assert tokenizer.pad_id == (own.token_to_id(PADDING[kind]) if kind in PADDING else None)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_canonical_form_is_its_own(tmp_path, kind):
    tokenizer = loaded(kind, MAKERS[kind](tmp_path / "original"))
    again = canonical(tokenizer.files, eos=tokenizer.eos, bos=tokenizer.bos, shown="it")
    assert again == tokenizer.files
    assert loaded(kind, saved(tokenizer, tmp_path / "saved")) == tokenizer


@pytest.mark.parametrize("kind", ["llama2", "gpt2", "llama3"])
def test_what_is_not_in_the_way_stays_byte_for_byte(tmp_path, kind):
    original = MAKERS[kind](tmp_path / "original")
    tokenizer = loaded(kind, original)
    assert tokenizer.files[TOKENIZER_FILE] == (original / TOKENIZER_FILE).read_bytes()


@pytest.mark.usefixtures("inline")
def test_file_folder_and_name_on_the_hub_make_the_same_corpus(tmp_path, monkeypatch, make, jsonl):
    """The Hub's own cache has it, so that nothing is downloaded."""
    original = llama2(tmp_path / "original")
    repo = tmp_path / "hub" / "models--some--llama"
    shutil.copytree(original, repo / "snapshots" / ("a" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    documents = jsonl([f"{i} {text}" for i in range(8) for text in TEXTS])

    def fingerprint(out: str, path: Path | str) -> str:
        tokenizer = {"path": str(path)}
        return make(documents, out=str(tmp_path / out), tokenizer=tokenizer).fingerprint

    by_file = fingerprint("file", original / TOKENIZER_FILE)
    assert fingerprint("folder", original) == by_file
    assert fingerprint("name", "some/llama") == by_file


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(("bos", "begin"), [(None, [1]), (True, [1]), (False, [])])
def test_documents_begin_as_prompts_do(tmp_path, make, jsonl, bos, begin, capsys):
    original = llama2(tmp_path / "original")
    keys = {"path": str(original)} | ({} if bos is None else {"bos": bos})
    manifest = make(jsonl([f"{i} cats" for i in range(60)]), tokenizer=keys)

    assert list(manifest.begins_with) == begin
    assert (manifest.format, manifest.eos_id, manifest.pad_id) == (2, 2, None)
    inspect(tmp_path / "out")  # each document begins so
    auto = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert auto("cats").input_ids == [*begin, *auto("cats", add_special_tokens=False).input_ids]
    assert of_corpus(str(tmp_path / "out"), manifest).begins_with == begin


def test_bos_is_asked_of_a_tokenizer_that_adds_none(tmp_path):
    original = llama2(tmp_path / "original", begin="$A")
    assert loaded("llama2", original).bos is None
    tokenizer = loaded("llama2", original, bos=True)
    auto = AutoTokenizer.from_pretrained(saved(tokenizer, tmp_path / "saved"))
    assert auto("cat").input_ids[0] == 1
    assert auto("cat", "cat").input_ids.count(1) == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("t5", "the tokenizer has no BOS: name one .* bos_token"),
        ("gpt2", "its BOS is its EOS '<.endoftext.>'"),
    ],
)
def test_a_bos_that_can_not_be_is_refused(tmp_path, kind, message):
    with pytest.raises(CorpusError, match=f"tokenizer.bos is true, but {message}"):
        loaded(kind, MAKERS[kind](tmp_path / "original"), bos=True)


def test_more_than_a_bos_is_refused(tmp_path):
    original = llama2(tmp_path / "original", begin="<s> <unk> $A")
    with pytest.raises(CorpusError, match=r"2 tokens \(<s>, <unk>\).* tokenizer.bos: false"):
        loaded("llama2", original)
    assert loaded("llama2", original, bos=False).begins_with == []


def test_names_of_tokens_that_are_not_there_are_left_out(tmp_path):
    """Loading them would add them, with ids that the model does not have."""
    original = llama2(tmp_path / "original")
    config = json.loads((original / CONFIG_FILE).read_text())
    told = {"pad_token": "<pad>", "additional_special_tokens": ["<gone>", "<unk>"]}
    added = {"900": {"content": "the", "special": False}}
    (original / CONFIG_FILE).write_text(json.dumps(config | told | {"added_tokens_decoder": added}))
    tokenizer = loaded("llama2", original)
    made = json.loads(tokenizer.files[CONFIG_FILE])
    assert "pad_token" not in made
    assert made["additional_special_tokens"] == ["<unk>"]
    auto = AutoTokenizer.from_pretrained(saved(tokenizer, tmp_path / "saved"))
    assert len(auto) == tokenizer.vocab_size


def test_a_chat_template_goes_with_it(tmp_path):
    original = llama2(tmp_path / "original")
    (original / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    tokenizer = loaded("llama2", original)
    auto = AutoTokenizer.from_pretrained(saved(tokenizer, tmp_path / "saved"))
    chat = [{"role": "user", "content": "cats"}]
    assert auto.apply_chat_template(chat, tokenize=False) == "cats"


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize(("texts", "pad"), [(["a b"], 3), (["a b", "b <pad> a"], None)])
def test_padding_is_a_token_that_the_corpus_does_not_have(tmp_path, make, jsonl, texts, pad):
    """A vocabulary of words may find it in text."""
    words = {"[UNK]": 0, "a": 1, "b": 2, "<pad>": 3, "</s>": 4}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    write(tmp_path / "t", tokenizer, eos_token="</s>", pad_token="<pad>")
    manifest = make(
        jsonl([text + " a" * i for i in range(40) for text in texts]),
        tokenizer={"path": str(tmp_path / "t")},
    )
    assert manifest.pad_id == pad
    assert manifest.vocabulary.pad_id == pad


@pytest.mark.usefixtures("inline")
def test_a_tokenizer_that_transformers_changes_is_refused(tmp_path, make, jsonl, monkeypatch):
    """Here by a class that does: what a later version of Transformers may do."""
    import transformers

    monkeypatch.setattr(transformers, "PreTrainedTokenizerFast", transformers.LlamaTokenizer)
    original = llama2(tmp_path / "original")
    with pytest.raises(CorpusError, match=r"LlamaTokenizer, which encodes \d+ of \d+ texts"):
        make(jsonl([f"{i} {TEXTS[1]}" for i in range(60)]), tokenizer={"path": str(original)})
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_corpus_of_the_first_format_means_what_it_did(tmp_path, make_corpus):
    """It has no BOS, whatever its tokenizer would add, and so has its tokenizer now."""
    folder = tmp_path / "corpus"
    make_corpus(folder, {"train": [[5, 9]]})
    llama2(folder)
    content = json.loads((folder / "manifest.json").read_text())
    for name in (
        "bos_id",
        "pad_id",
        "tokenizer_config_sha256",
        "sample",
        "row_length",
        "length_cost",
        "passages_sha256",
        "turn_ends",
        "classes",
        "filters",
    ):
        del content[name]
    for shard in content["shards"]:
        del shard["source"]
    for counts in content["counts"]["train"].values():
        del counts["bytes"], counts["supervised"], counts["labels"]
    sha256 = hashlib.sha256((folder / TOKENIZER_FILE).read_bytes()).hexdigest()
    content |= {"format": 1, "eos_id": 2, "tokenizer_sha256": sha256}
    del content["fingerprint"]
    plain = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    content["fingerprint"] = hashlib.sha256(plain).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(content))

    manifest = Manifest.read(folder)
    assert (manifest.format, manifest.begins_with, manifest.pad_id) == (1, (), None)
    tokenizer = of_corpus(str(folder), manifest)
    auto = AutoTokenizer.from_pretrained(saved(tokenizer, tmp_path / "saved"))
    assert (auto.eos_token, auto.num_special_tokens_to_add()) == ("</s>", 0)

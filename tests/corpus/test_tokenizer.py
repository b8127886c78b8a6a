"""Training, loading and applying tokenizers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from manta.config.corpus import TokenizerSection
from manta.config.errors import CorpusError
from manta.corpus.cuts import PIECE
from manta.corpus.tokenizer import (
    ENCODE_BYTES,
    CorpusTokenizer,
    Encoder,
    decode,
    load,
    stored,
    train,
)

TEXTS = ["def f(x):\n    return x\n", "import os\nimport sys\n", "naïve café ☃ \t\r\n 漢字"] * 3


@pytest.fixture(autouse=True)
def _restored_environment(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


def saved(tokenizer: CorpusTokenizer, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in tokenizer.files.items():
        (folder / name).write_bytes(content)
    return folder


def encoded(tokenizer: CorpusTokenizer, folder: Path, *texts: str) -> list[list[int]]:
    """The documents that a corpus gets of these texts."""
    path = saved(tokenizer, folder) / "tokenizer.json"
    encoder = Encoder(path, tokenizer.begins_with, tokenizer.eos_id, tokenizer.dtype)
    return [document.tolist() for document in encoder.encode(texts)]


def words(folder: Path, *vocabulary: str, special: tuple[str, ...] = ()) -> Path:
    """A tokenizer.json of whole words."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.mark.parametrize("bos", [False, True])
def test_a_long_document_is_framed_once_and_has_the_ids_of_the_whole(tmp_path, monkeypatch, bos):
    """It goes through the tokenizer in pieces, none of them larger than may be."""
    tokenizer = train(TEXTS, 300)
    path = saved(tokenizer, tmp_path / "t") / "tokenizer.json"
    text = "some words of a text<|endoftext|> in many lines\n" * (5 * PIECE // 40)
    begins_with = (5,) if bos else ()
    encoder = Encoder(path, begins_with, tokenizer.eos_id, tokenizer.dtype)
    whole = encoder._ids([text])[0].tolist()
    given: list[int] = []
    real = Encoder._ids

    def counted(self: Encoder, texts: list[str]) -> list[np.ndarray]:
        given.append(sum(map(len, texts)))
        return real(self, texts)

    monkeypatch.setattr(Encoder, "_ids", counted)
    (document, short) = encoder.encode([text, "x"])

    assert document.tolist() == [*begins_with, *whole, tokenizer.eos_id]
    assert len(short) == len(begins_with) + 2
    assert len(text) > ENCODE_BYTES > max(given)


def test_a_trained_tokenizer_loses_nothing_and_ends_documents(tmp_path):
    tokenizer = train(TEXTS, 300)
    folder = saved(tokenizer, tmp_path / "t")

    documents = Encoder(folder / "tokenizer.json", (), tokenizer.eos_id, "uint16").encode(TEXTS)

    assert all(document[-1] == tokenizer.eos_id for document in documents)
    assert all(document.dtype == np.uint16 for document in documents)
    assert decode(folder, "tokenizer.json", [d[:-1].tolist() for d in documents]) == TEXTS
    assert tokenizer.vocab_size == 300
    assert stored(folder, tokenizer.eos) == tokenizer


def test_training_depends_neither_on_order_nor_on_threads(tmp_path):
    script = (
        "import sys, pathlib, sysconfig\n"
        "from manta.corpus.tokenizer import train\n"
        "root = pathlib.Path(sysconfig.get_paths()['stdlib'])\n"
        "texts = [path.read_text('utf-8') for path in sorted(root.glob('*.py'))[:60]]\n"
        "print(train(texts[::int(sys.argv[1])], 2000).sha256)\n"
    )

    def digest(step: str, threads: str) -> str:
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, "-c", script, step]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert digest("1", "1") == digest("1", "4") == digest("-1", "2")


def test_text_that_spells_the_eos_stays_text(tmp_path):
    tokenizer = train(TEXTS, 300)
    text = f"before{tokenizer.eos}after"

    (document,) = encoded(tokenizer, tmp_path / "t", text)

    assert document.count(tokenizer.eos_id) == 1
    assert decode(tmp_path / "t", "tokenizer.json", [document[:-1]]) == [text]


@pytest.mark.parametrize("special", [(), ("</s>",)])
def test_no_document_holds_an_eos_inside(tmp_path, special):
    """Also with a model that has the EOS among its ordinary words."""
    path = words(tmp_path / "t", "[UNK]", "a", "b", "</s>", special=special)

    assert encoded(load(TokenizerSection(path=str(path))), path.parent, "a </s> b") == [[1, 2, 3]]


def test_settings_of_the_model_it_comes_from_are_left_out(tmp_path):
    path = words(tmp_path / "t", "[UNK]", "a", "</s>", "<s>")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    special = [("<s>", 3), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=special)
    tokenizer.save(str(path))

    found = load(TokenizerSection(path=str(path), bos=False))
    assert encoded(found, tmp_path / "t", "a a a") == [[1, 1, 1, 2]]


def test_the_eos_is_the_one_named_beside_the_tokenizer(tmp_path):
    path = words(tmp_path / "t", "[UNK]", "a", "</s>", "<end>")
    config = {"eos_token": {"content": "<end>", "special": True}, "model_max_length": 8}
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(config))

    by_folder = load(TokenizerSection(path=str(tmp_path / "t")))
    by_file = load(TokenizerSection(path=str(path)))

    assert by_folder == by_file
    assert (by_folder.eos, by_folder.eos_id, by_folder.vocab_size) == ("<end>", 3, 4)
    told = json.loads(by_folder.files["tokenizer_config.json"])
    assert (told["eos_token"], told["model_max_length"]) == ("<end>", 8)


def test_a_well_known_eos_or_the_one_in_the_config(tmp_path):
    path = words(tmp_path / "t", "[UNK]", "a", "</s>", "<stop>")

    assert load(TokenizerSection(path=str(path))).eos_id == 2
    assert load(TokenizerSection(path=str(path), eos="<stop>")).eos_id == 3
    with pytest.raises(CorpusError, match=r"no token '<halt>'.*tokenizer\.eos"):
        load(TokenizerSection(path=str(path), eos="<halt>"))


def test_a_tokenizer_without_an_eos_says_what_to_do(tmp_path):
    path = words(tmp_path / "t", "[UNK]", "a")

    with pytest.raises(CorpusError, match=r"no end-of-document token found.*tokenizer\.eos"):
        load(TokenizerSection(path=str(path)))


def test_what_is_no_tokenizer(tmp_path):
    (tmp_path / "t.json").write_text("{}")

    with pytest.raises(CorpusError, match=r"t\.json: not a tokenizer\.json"):
        load(TokenizerSection(path=str(tmp_path / "t.json")))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CorpusError, match=rf"this is a run, .*: manta export {tmp_path} FOLDER"):
        load(TokenizerSection(path=str(tmp_path)))


def test_hugging_face_finds_and_gives_the_same_tokenizer(tmp_path, monkeypatch):
    import huggingface_hub.constants
    from transformers import AutoTokenizer, GPT2Tokenizer

    # Its environment variable is read once, at import; else a name is asked for, with retries.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    trained = train(TEXTS, 300)
    auto = AutoTokenizer.from_pretrained(saved(trained, tmp_path / "ours"))
    assert auto.eos_token_id == trained.eos_id
    assert auto.decode(auto(TEXTS[2])["input_ids"]) == TEXTS[2]

    # A folder in an older form, without tokenizer.json: only transformers can read it.
    model = json.loads(trained.files["tokenizer.json"])["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    GPT2Tokenizer(vocab=model["vocab"], merges=merges).save_pretrained(tmp_path / "old")
    old = tmp_path / "old"
    (old / "vocab.json").write_text(json.dumps(model["vocab"]))
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)))
    (old / "tokenizer.json").unlink()
    loaded = load(TokenizerSection(path=str(old)))
    assert loaded.eos == "<|endoftext|>"
    (document,) = encoded(loaded, tmp_path / "new", TEXTS[0])
    assert document[:-1] == auto(TEXTS[0])["input_ids"]

    with pytest.raises(CorpusError, match="tokenizer no/such-name: neither"):
        load(TokenizerSection(path="no/such-name"))

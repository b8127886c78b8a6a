"""Long texts go through a tokenizer in pieces, and their ids are those of the whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from manta.corpus.cuts import Cuts, cuts_of, encoded

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and it's 1234 times as quick!",
    "def f(x):\n    return x + 1  # a comment\n\n\nclass A:\n\tpass\n",
    "字符串是一个序列。\n第二行在这里\nНовая строка и слово\nnext line",
    "naïve café — “quotes” … e\u0301 ΣΑΣ Σ; a  b   c\r\nx",
] * 5
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(*before: Any, normalizer: Any = None, **options: Any) -> Tokenizer:
    """A byte-level BPE with other pre-tokenizers before its own."""
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(**({"add_prefix_space": False} | options))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, last]) if before else last
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def split(pattern: str, *before: Any, normalizer: Any = None) -> Tokenizer:
    by_pattern = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return byte_level(*before, by_pattern, normalizer=normalizer, use_regex=False)


def deepseek() -> Tokenizer:
    stages = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+"]
    return split(DEEPSEEK, *(pre_tokenizers.Split(Regex(s), behavior="isolated") for s in stages))


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[UNK]", "<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def sentence_unigram(prepend: str = "always") -> Tokenizer:
    """As T5's and XLM-R's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=prepend)]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=300, unk_token="<unk>", special_tokens=["<unk>", "<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def sentence_bpe(kind: str) -> Tokenizer:
    """As Llama 2's in its old and its new form, and Gemma's: the model gets whole texts."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    replaced = normalizers.Replace(" ", "▁")
    if kind == "old":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced])
        tokenizer.pre_tokenizer = None
    elif kind == "new":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = replaced
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def neox() -> Tokenizer:
    """With added tokens that are not special: blanks, a tag."""
    tokenizer = byte_level(normalizer=normalizers.NFC())
    blanks = [AddedToken(" " * n, normalized=True) for n in range(2, 6)]
    tokenizer.add_tokens([*blanks, AddedToken("<tag>", lstrip=True), AddedToken("\n\n")])
    return tokenizer


SAFE: dict[str, Callable[[], Tokenizer]] = {
    "GPT-2": byte_level,
    "GPT-2, prefix space": lambda: byte_level(add_prefix_space=True),
    "GPT-2, by pattern": lambda: split(GPT2),
    "Llama 3": lambda: split(LLAMA3),
    "Qwen": lambda: split(QWEN, normalizer=normalizers.NFC()),
    "GPT-4o": lambda: split(O200K),
    "DeepSeek": deepseek,
    "StarCoder": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "Falcon": lambda: byte_level(pre_tokenizers.Punctuation()),
    "GPT-NeoX": neox,
    "CLIP": lambda: byte_level(normalizer=normalizers.Replace(Regex(r"\s+"), " ")),
    "BERT": word_piece,
    "XLM-R": sentence_unigram,
    "XLM-R, first": lambda: sentence_unigram("first"),
    "Llama 2": lambda: sentence_bpe("old"),
    "Llama 2, new": lambda: sentence_bpe("new"),
    "Gemma": lambda: sentence_bpe("gemma"),
}


@cache
def made(name: str) -> tuple[Tokenizer, Cuts]:
    tokenizer = SAFE[name]()
    tokenizer.encode_special_tokens = True
    return tokenizer, cuts_of(tokenizer.to_str())


def ids_of(tokenizer: Tokenizer, texts: list[str]) -> list[Any]:
    return [np.array(e.ids) for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


fragments = st.sampled_from(
    [
        *("a", "The", " the", "word", " ", "  ", "\n", "\n\n", "\r\n", "\t", "1", "234", " 5"),
        *(".", "!", "'s", " 't", "'", "—", "…", "(", ";\n", "=", "<eos>", "<tag>", "▁", "\u00a0"),
        *("字", "符。", "Новая", "Σ", "Σ ", "e\u0301", "\u0301", "\u200b", "ﬁ", "한", "ぁ", "\x1c"),
    ]
)


@pytest.mark.parametrize("name", SAFE)
@given(st.lists(fragments, max_size=40), st.integers(1, 12), st.integers(1, 40))
def test_pieces_have_the_ids_of_the_whole(name, parts, size, batch):
    tokenizer, cuts = made(name)
    texts = ["".join(parts), "".join(parts[::-1]), "a b " + " ".join(parts)]

    found = encoded(texts, cuts, lambda t: ids_of(tokenizer, t), batch=batch, size=size)

    whole = ids_of(tokenizer, texts)
    assert [ids.tolist() for ids in found] == [ids.tolist() for ids in whole]


@pytest.mark.parametrize("name", SAFE)
def test_ordinary_text_is_cut_to_the_size_asked_for(name):
    _, cuts = made(name)
    text = "some words in a line of text, as there are many\n" * 2000

    pieces = cuts.pieces(text, 1000)

    assert cuts.any
    assert len(pieces) > 80
    assert max(map(len, pieces)) < 1100


def reversed_split() -> Tokenizer:
    stage = pre_tokenizers.Split(Regex(GPT2), behavior="merged_with_previous")
    return byte_level(stage, use_regex=False)


def with_added(token: AddedToken) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_tokens([token])
    return tokenizer


def crossing() -> Tokenizer:
    """A BPE over whole texts that has merged the end of a word with the next."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


UNSAFE: dict[str, Callable[[], Tokenizer]] = {
    "unknown pattern": lambda: split(r"\w+ ?|[^\w]+"),
    "other behaviour": reversed_split,
    "a strip": lambda: byte_level(normalizer=normalizers.Strip()),
    "a replaced letter": lambda: byte_level(normalizer=normalizers.Replace("e n", "x")),
    "no spaces": lambda: byte_level(normalizer=normalizers.Replace(Regex(r"\s+"), "")),
    "an added token of two words": lambda: with_added(AddedToken("New York")),
    "an added token that takes blanks": lambda: with_added(AddedToken("word", rstrip=True)),
    "tokens over words": crossing,
    "no splitting": lambda: byte_level(use_regex=False),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_is_not_known_to_be_safe_is_not_cut(name):
    cuts = cuts_of(UNSAFE[name]().to_str())

    assert not cuts.any
    assert cuts.pieces("some words " * 100, 10) == ["some words " * 100]


def test_dropout_of_merges_is_not_cut():
    spec = json.loads(byte_level().to_str())
    spec["model"]["dropout"] = 0.1

    assert not cuts_of(json.dumps(spec)).any


def test_batches_hold_no_more_than_they_may():
    cuts = Cuts(at_space=True)
    sizes = []

    def encode(texts: list[str]) -> list[Any]:
        sizes.append(sum(map(len, texts)))
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    texts = ["word " * 1000, "x", "", "y" * 300, "word " * 10]
    found = encoded(texts, cuts, encode, batch=200, size=50)

    assert ["".join(map(chr, ids)) for ids in found] == texts
    assert max(sizes) == 300  # of the one that can't be cut
    assert sorted(sizes)[-2] <= 200

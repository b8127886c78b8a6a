"""Small tokenizers of the kinds that are in use, each as a Hugging Face folder.

Each was made to differ from what Transformers builds from its vocabulary by the class it names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "The cat sat on the mat, and the CAT didn't mind.\n",
    "  Two  spaces\tand tabs; naïve café, Ünï ﬁ ①\n\n\n",
    "def f(x_1):\n    return x_1 ** 23456789  # 'quoted'\n",
    "<s> and </s>, [CLS] [SEP] <unk> are spelled out here",
    "漢字 and ☃ are not all in the vocabulary \r\n",
]
BYTES = pre_tokenizers.ByteLevel.alphabet()


def write(folder: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    """A folder of this tokenizer, with this ``tokenizer_config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def template(text: str, tokenizer: Tokenizer) -> Any:
    """A post-processor, such as ``<s> $A``."""
    names = [part for part in text.split() if part != "$A"]
    special = [(name, tokenizer.token_to_id(name)) for name in names]
    return processors.TemplateProcessing(text, special_tokens=special)


def llama2(folder: Path, begin: str = "<s> $A") -> Path:
    """SentencePiece-like BPE: byte fallback, a normalizer in place of a pre-tokenizer, BOS."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ")]
    )
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS[:3], trainer)
    tokenizer.post_processor = template(begin, tokenizer)
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return write(folder, tokenizer, tokenizer_class="LlamaTokenizer", add_bos_token=True, **named)


def gpt2(folder: Path) -> Path:
    """Byte-level BPE with a space before the first word, and one token for all purposes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[end], initial_alphabet=BYTES, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    named = dict.fromkeys(("unk_token", "bos_token", "eos_token"), end)
    return write(folder, tokenizer, tokenizer_class="GPT2Tokenizer", **named)


def bert(folder: Path) -> Path:
    """WordPiece in lower case, without accents, between [CLS] and [SEP]; no EOS by name."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS[:3], trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = {f"{name[1:-1].lower()}_token": name for name in special}
    return write(folder, tokenizer, tokenizer_class="BertTokenizer", do_lower_case=False, **named)


def llama3(folder: Path) -> Path:
    """Byte-level BPE split by an expression of its own; BOS after a step for offsets alone."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(r"\d{1,3}|\s+", behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=BYTES, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), template("<|begin|> $A", tokenizer)]
    )
    named = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    return write(folder, tokenizer, tokenizer_class="Qwen2Tokenizer", **named)


def t5(folder: Path) -> Path:
    """Unigram that ends each text, cuts it at 16 tokens, and has an added word of its own."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("café", normalized=False)])
    tokenizer.post_processor = template("$A </s>", tokenizer)
    tokenizer.enable_truncation(16)
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    extra = {"additional_special_tokens": ["<extra_id_0>"], "model_max_length": 16}
    return write(folder, tokenizer, tokenizer_class="T5TokenizerFast", **named, **extra)


def bare(folder: Path) -> Path:
    """A tokenizer.json alone."""
    gpt2(folder)
    (folder / "tokenizer_config.json").unlink()
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker for maker in (llama2, gpt2, bert, llama3, t5, bare)
}
# What a config has to say besides the path.
SAID = {"bert": {"eos": "[SEP]"}}

"""The tokenizer of a corpus: trained on a sample or loaded, kept beside the shards, applied.

Whatever its origin, a tokenizer is reduced to the files of a folder from which
`transformers.AutoTokenizer` can load it again; ``tokenizer.json`` is the one that we use.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from manta.config.corpus import TokenizerSection
from manta.config.errors import CorpusError
from manta.corpus.shards import TokenDtype, token_dtype

logger = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
# Whatever else a Hugging Face tokenizer's folder may hold.
COMPANIONS = (
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
TRAINED_EOS = "<|endoftext|>"
# Tried in this order when a tokenizer.json comes without a word about its EOS.
KNOWN_EOS = (TRAINED_EOS, "</s>", "<|end_of_text|>", "<eos>", "[EOS]")
# Text handed to the tokenizer in one call: enough to make the call's cost vanish; the
# encodings that come back take some 50 times as much memory as the text.
ENCODE_BYTES = 1 << 20


@dataclass(frozen=True)
class CorpusTokenizer:
    """A tokenizer as it is stored with a corpus.

    Attributes:
        files: name → content; `TOKENIZER_FILE` and `CONFIG_FILE` are always there.
        eos: text of the token that ends each document.
        eos_id: its id.
        vocab_size: the largest token id plus one.
    """

    files: dict[str, bytes]
    eos: str
    eos_id: int
    vocab_size: int

    @property
    def sha256(self) -> str:
        """Of ``tokenizer.json``."""
        return hashlib.sha256(self.files[TOKENIZER_FILE]).hexdigest()

    @property
    def dtype(self) -> TokenDtype:
        """Of its token ids."""
        return token_dtype(self.vocab_size)


def train(texts: Iterable[str], vocab_size: int) -> CorpusTokenizer:
    """A byte-level BPE (Sennrich et al., 2016; Radford et al., 2019) of at most `vocab_size`.

    It depends on the texts alone, not on their order or on the number of threads. Any text
    can be encoded and decoded back without loss.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[TRAINED_EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        logger.warning(
            "the sample has words for a vocabulary of %d tokens only, not %d",
            tokenizer.get_vocab_size(),
            vocab_size,
        )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": TRAINED_EOS,
        "clean_up_tokenization_spaces": False,
    }
    files = {
        TOKENIZER_FILE: tokenizer.to_str(pretty=True).encode(),
        CONFIG_FILE: json.dumps(config, indent=2).encode() + b"\n",
    }
    return _described(files, TRAINED_EOS, "the trained tokenizer")


def load(section: TokenizerSection) -> CorpusTokenizer:
    """The tokenizer that `section.path` names: a file, a folder, or a name on the Hub.

    Raises:
        CorpusError: if it can't be loaded or has no recognisable EOS.
    """
    path = Path(str(section.path)).expanduser()
    if path.is_file():
        files = {TOKENIZER_FILE: _read(path)}
        beside = path.parent if path.name == TOKENIZER_FILE else None
    elif (path / TOKENIZER_FILE).is_file():
        files = {TOKENIZER_FILE: _read(path / TOKENIZER_FILE)}
        beside = path
    else:
        return _hugging_face(section)
    if beside:
        names = [name for name in (CONFIG_FILE, *COMPANIONS) if (beside / name).is_file()]
        files |= {name: _read(beside / name) for name in names}
    eos = section.eos or _named_eos(files, path) or _known_eos(files, str(section.path))
    if CONFIG_FILE not in files:
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos}
        files[CONFIG_FILE] = json.dumps(config, indent=2).encode() + b"\n"
    return _described(files, eos, str(section.path))


def stored(folder: Path, eos: str) -> CorpusTokenizer:
    """The tokenizer that `save` put into `folder`."""
    names = (TOKENIZER_FILE, CONFIG_FILE, *COMPANIONS)
    files = {name: _read(folder / name) for name in names if (folder / name).is_file()}
    return _described(files, eos, str(folder / TOKENIZER_FILE))


class Encoder:
    """Texts → token ids, on one thread."""

    def __init__(self, path: Path, eos: str, dtype: TokenDtype):
        # The parallelism is Ray's: one task, one CPU. Threads of the tokenizer on top of it
        # would fight over the same cores.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._tokenizer = _parsed(_read(path), str(path))
        # A tokenizer may carry settings of the model it comes from; a corpus takes all of
        # each document and nothing else.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Text that spells a special token is text. Only tokens marked special are spared.
        self._tokenizer.add_special_tokens([AddedToken(eos, special=True, normalized=False)])
        self._tokenizer.encode_special_tokens = True
        self._eos = self._tokenizer.token_to_id(eos)
        self._dtype = np.dtype(dtype)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """Token ids of each text, its EOS last."""
        # The fast variant keeps no offsets into the text, which nobody reads here.
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._ended(encoding.ids) for encoding in encodings]

    def _ended(self, ids: list[int]) -> NDArray[np.unsignedinteger]:
        tokens = np.empty(len(ids) + 1, self._dtype)
        tokens[:-1] = ids
        tokens[-1] = self._eos
        inner = tokens[:-1] == self._eos
        if inner.any():
            # A vocabulary with the EOS among its ordinary pieces (some Unigram ones) finds it
            # in text all the same. A document has one end: the stray ones go.
            tokens = np.concatenate([tokens[:-1][~inner], tokens[-1:]])
        return tokens


@lru_cache(maxsize=2)
def encoder(path: str, sha256: str, eos: str, dtype: TokenDtype) -> Encoder:
    """The encoder of a stored tokenizer, loaded once a process; the hash keys the cache."""
    return Encoder(Path(path), eos, dtype)


def decode(folder: Path, tokenizer_file: str, documents: Sequence[Sequence[int]]) -> list[str]:
    """The texts of tokenized documents, special tokens left out."""
    tokenizer = _parsed(_read(folder / tokenizer_file), str(folder / tokenizer_file))
    texts: list[str] = tokenizer.decode_batch([list(document) for document in documents])
    return texts


def _described(files: dict[str, bytes], eos: str, shown: str) -> CorpusTokenizer:
    vocabulary = _parsed(files[TOKENIZER_FILE], shown).get_vocab(with_added_tokens=True)
    if eos not in vocabulary:
        raise CorpusError(
            f"tokenizer {shown}: its vocabulary has no token '{eos}' to end documents with; "
            "name one that it has in tokenizer.eos"
        )
    return CorpusTokenizer(files, eos, vocabulary[eos], max(vocabulary.values()) + 1)


def _named_eos(files: dict[str, bytes], path: Path) -> str | None:
    """The EOS that the files beside a tokenizer.json name."""
    for name in (CONFIG_FILE, "special_tokens_map.json"):
        if name not in files:
            continue
        try:
            named = json.loads(files[name]).get("eos_token")
        except (ValueError, AttributeError):
            raise CorpusError(f"{path}: {name} beside it is not a JSON object") from None
        if named:
            return str(named["content"] if isinstance(named, dict) else named)
    return None


def _known_eos(files: dict[str, bytes], shown: str) -> str:
    vocabulary = _parsed(files[TOKENIZER_FILE], shown).get_vocab(with_added_tokens=True)
    for candidate in KNOWN_EOS:
        if candidate in vocabulary:
            return candidate
    raise CorpusError(
        f"tokenizer {shown}: no end-of-document token found: it names no eos_token, and its "
        f"vocabulary has none of {', '.join(KNOWN_EOS)}; name one that it has in tokenizer.eos"
    )


def _hugging_face(section: TokenizerSection) -> CorpusTokenizer:
    from transformers import AutoTokenizer

    name = str(section.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers and the Hub's client raise many kinds
        lines = str(error).splitlines() or [type(error).__name__]
        raise CorpusError(
            f"tokenizer {name}: neither a tokenizer.json, nor a folder with one, nor a "
            f"Hugging Face tokenizer that can be loaded: {lines[0]}"
        ) from None
    eos = section.eos or tokenizer.eos_token
    if not eos:
        raise CorpusError(
            f"tokenizer {name}: it names no eos_token; name one that it has in tokenizer.eos"
        )
    files = _saved(tokenizer)
    if TOKENIZER_FILE not in files:
        raise CorpusError(f"tokenizer {name}: it has no fast form (no {TOKENIZER_FILE})")
    return _described(files, eos, name)


def _saved(tokenizer: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        names = (TOKENIZER_FILE, CONFIG_FILE, *COMPANIONS)
        return {n: (Path(folder) / n).read_bytes() for n in names if (Path(folder) / n).is_file()}


def _parsed(content: bytes, shown: str) -> Any:
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises bare Exception
        raise CorpusError(f"tokenizer {shown}: not a tokenizer.json: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: can't be read: {error.strerror}") from None

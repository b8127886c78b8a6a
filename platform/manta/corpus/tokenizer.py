"""The tokenizer of a corpus: train or load it, keep it beside the shards, and apply it.

Whatever its origin, a tokenizer is brought into the canonical form (see `canonical`), from which
`transformers.AutoTokenizer` loads the tokenizer that encoded the corpus. That form is kept with
the corpus and exported with a model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from manta.config.corpus import TokenizerSection
from manta.config.errors import CorpusError
from manta.corpus.canonical import (
    CHAT_FILE,
    CONFIG_FILE,
    PLAIN_CLASS,
    READ_FILES,
    TOKENIZER_FILE,
    added_to_text,
    canonical,
    named_tokens,
    parsed,
)
from manta.corpus.cuts import cuts_of, encoded
from manta.corpus.manifest import Manifest
from manta.corpus.remote import tokenizer_folder
from manta.sample.tokens import TokenDtype, token_dtype
from manta.storage.run_folder import RUN

logger = logging.getLogger(__name__)

TRAINED_EOS = "<|endoftext|>"
# Tokens that are tried in this order if no file names the tokenizer's EOS.
KNOWN_EOS = (TRAINED_EOS, "</s>", "<|end_of_text|>", "<eos>", "[EOS]")
# Bytes of text that the tokenizer is given in one call: so many that the call's own cost is small,
# but no more, as the encodings take some 150 times as much memory as the text.
ENCODE_BYTES = 1 << 20


@dataclass(frozen=True)
class CorpusTokenizer:
    """A tokenizer as it is stored with a corpus.

    Attributes:
        files: name → content, in the canonical form: `TOKENIZER_FILE` and `CONFIG_FILE`.
        eos: text of the token that ends each document.
        eos_id: token id of the EOS.
        bos: text of the token that each document begins with; None if there is none.
        bos_id: token id of the BOS; the EOS's id if the tokenizer uses one token for both.
        pad_id: a token for padding, which is no other special token; None if there is none.
        vocab_size: the largest token id plus one.
    """

    files: dict[str, bytes]
    eos: str
    eos_id: int
    bos: str | None
    bos_id: int | None
    pad_id: int | None
    vocab_size: int

    @property
    def sha256(self) -> str:
        """SHA-256 of ``tokenizer.json``."""
        return hashlib.sha256(self.files[TOKENIZER_FILE]).hexdigest()

    @property
    def config_sha256(self) -> str:
        """SHA-256 of ``tokenizer_config.json``."""
        return hashlib.sha256(self.files[CONFIG_FILE]).hexdigest()

    @property
    def dtype(self) -> TokenDtype:
        """Type of the token ids."""
        return token_dtype(self.vocab_size)

    @property
    def chat_template(self) -> str | None:
        """The chat template; None if there is none, or there are several by name."""
        template = json.loads(self.files[CONFIG_FILE]).get("chat_template")
        return template if isinstance(template, str) else None

    @property
    def padding(self) -> int:
        """The token that fills rows up: the one for padding, or the EOS."""
        return self.eos_id if self.pad_id is None else self.pad_id

    @property
    def begins_with(self) -> list[int]:
        """The special tokens before a text."""
        return [] if self.bos is None or self.bos_id is None else [self.bos_id]

    def __str__(self) -> str:
        """The tokens that documents begin and end with, for people."""
        begin = f"begin with {self.bos!r} ({self.bos_id})" if self.bos else "begin with no BOS"
        return f"documents {begin} and end with {self.eos!r} ({self.eos_id})"


def train(texts: Iterable[str], vocab_size: int) -> CorpusTokenizer:
    """A byte-level BPE (Sennrich et al., 2016; Radford et al., 2019) of at most `vocab_size`.

    The result depends on the texts alone, not on their order or on the number of threads. Any text
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
            "the sample of text yields a vocabulary of %d tokens only, not %d as in "
            "tokenizer.vocab_size; raise tokenizer.sample_bytes for more",
            tokenizer.get_vocab_size(),
            vocab_size,
        )
    config = {"tokenizer_class": PLAIN_CLASS, "eos_token": TRAINED_EOS}
    files = {
        TOKENIZER_FILE: tokenizer.to_str(pretty=True).encode(),
        CONFIG_FILE: json.dumps(config).encode(),
    }
    return described(files, TRAINED_EOS, None, "the trained tokenizer")


def load(section: TokenizerSection, template: bytes | None = None) -> CorpusTokenizer:
    """The tokenizer that `section.path` names: a file, a folder, or a name on the Hub.

    Args:
        section: the config's section on the tokenizer.
        template: a chat template that replaces the tokenizer's own.

    Raises:
        CorpusError: if it can't be loaded, its EOS isn't known, or it lacks the BOS asked for.
    """
    name = str(section.path)
    path = Path(name).expanduser()
    if path.is_file() and path.name != TOKENIZER_FILE:
        files = {TOKENIZER_FILE: _read(path)}
    else:
        folder = path.parent if path.is_file() else path if path.is_dir() else _from_hub(name)
        files = _files_in(folder) or _converted(str(folder) if path.is_dir() else name)
    if section.add:
        files[TOKENIZER_FILE] = _with_tokens(files[TOKENIZER_FILE], section.add)
    if template is not None:
        files[CHAT_FILE] = template
    eos = section.eos or named_tokens(files, name).get("eos_token") or _known_eos(files, name)
    return described(files, eos, _bos(files, section.bos, eos, name), name)


def _with_tokens(content: bytes, tokens: Sequence[str]) -> bytes:
    """A tokenizer.json with more special tokens; those that it has stay as they are."""
    tokenizer = Tokenizer.from_str(content.decode())
    new = [token for token in tokens if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in new])
    text: str = tokenizer.to_str(pretty=True)
    return text.encode()


def stored(folder: Path, eos: str) -> CorpusTokenizer:
    """The trained tokenizer that an earlier attempt has written to `folder`."""
    return described(_files_in(folder), eos, None, str(folder))


def of_corpus(folder: str, manifest: Manifest) -> CorpusTokenizer:
    """The tokenizer that encoded a corpus, in a folder or at a URL.

    Raises:
        CorpusError: if it can't be read, or doesn't match its checksum.
    """
    here = tokenizer_folder(folder, manifest)
    # A corpus of format 1 has the tokenizer's original files.
    files = _files_in(here) if manifest.format == 1 else {}
    for name, checksum in manifest.tokenizer_files.items():
        files[name] = _read(here / name)
        if checksum not in (None, hashlib.sha256(files[name]).hexdigest()):
            raise CorpusError(
                f"{here / name}: damaged: its checksum is not the manifest's; if it is in this "
                "node's cache, remove it, otherwise prepare the corpus again"
            )
    tokenizer = parsed(files[TOKENIZER_FILE], str(here / TOKENIZER_FILE))
    bos = [str(tokenizer.id_to_token(token)) for token in manifest.begins_with]
    eos = str(tokenizer.id_to_token(manifest.eos_id))
    return described(files, eos, bos[0] if bos else None, folder)


class Encoder:
    """Encodes texts to token ids, on one thread."""

    def __init__(self, path: Path, begins_with: Sequence[int], eos_id: int, dtype: TokenDtype):
        # Ray runs one worker on each CPU; more threads would compete for the same cores.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        content = _read(path)
        self._tokenizer = parsed(content, str(path))
        # Encode text that spells a special token as text; this works for tokens marked special.
        self._tokenizer.encode_special_tokens = True
        self._begins_with = list(begins_with)
        self._eos = eos_id
        self._dtype = np.dtype(dtype)
        self._cuts = cuts_of(content)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """Token ids of each text, with the BOS first, if there is one, and the EOS last."""
        found = encoded(texts, self._cuts, self._ids, batch=ENCODE_BYTES)
        return [self._ended(ids) for ids in found]

    def _ids(self, texts: list[str]) -> list[NDArray[np.unsignedinteger]]:
        # The fast variant computes no offsets into the text, which aren't needed here.
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, self._dtype) for encoding in encodings]

    def _ended(self, ids: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        tokens = np.empty(len(self._begins_with) + len(ids) + 1, self._dtype)
        tokens[: len(self._begins_with)] = self._begins_with
        tokens[len(self._begins_with) : -1] = ids
        tokens[-1] = self._eos
        inner = tokens[:-1] == self._eos
        if inner.any():
            # Some Unigram vocabularies have the EOS among their ordinary pieces, and so find it in
            # text. It is removed there, as a document has one EOS, at its end.
            tokens = np.concatenate([tokens[:-1][~inner], tokens[-1:]])
        return tokens


@lru_cache(maxsize=2)
def encoder(
    path: str, sha256: str, begins_with: tuple[int, ...], eos_id: int, dtype: TokenDtype
) -> Encoder:
    """The encoder of a stored tokenizer, loaded once a process for each checksum."""
    return Encoder(Path(path), begins_with, eos_id, dtype)


def decode(
    folder: Path,
    tokenizer_file: str,
    documents: Sequence[Sequence[int]],
    *,
    special: bool = False,
) -> list[str]:
    """The texts of tokenized documents, without special tokens unless `special`."""
    tokenizer = parsed(_read(folder / tokenizer_file), str(folder / tokenizer_file))
    texts: list[str] = tokenizer.decode_batch(
        [list(document) for document in documents], skip_special_tokens=not special
    )
    return texts


def described(files: dict[str, bytes], eos: str, bos: str | None, shown: str) -> CorpusTokenizer:
    """The tokenizer of these files in the canonical form.

    Args:
        files: contents of the files in `READ_FILES`, by name.
        eos: the token that ends documents.
        bos: the token that documents begin with, if any.
        shown: name of the tokenizer in errors.

    Raises:
        CorpusError: if the vocabulary lacks the EOS, or a file can't be read.
    """
    ids = parsed(files[TOKENIZER_FILE], shown).get_vocab(with_added_tokens=True)
    if eos not in ids:
        raise CorpusError(
            f"tokenizer {shown}: its vocabulary has no token '{eos}' to end documents with; set "
            "tokenizer.eos to a token that it has"
        )
    named = named_tokens(files, shown)
    special = {named.get(name) for name in ("bos_token", "unk_token")} | {bos, eos}
    pad = named.get("pad_token")
    return CorpusTokenizer(
        files=canonical(files, eos=eos, bos=bos, shown=shown),
        eos=eos,
        eos_id=ids[eos],
        bos=bos,
        bos_id=ids[eos] if bos is None and named.get("bos_token") == eos else ids.get(bos or ""),
        pad_id=None if pad in special else ids.get(pad or ""),
        vocab_size=max(ids.values()) + 1,
    )


def _bos(files: dict[str, bytes], wanted: bool | None, eos: str, shown: str) -> str | None:
    """The token that documents begin with: by `tokenizer.bos`, or else as the tokenizer's own."""
    if wanted is False:
        return None
    tokenizer = parsed(files[TOKENIZER_FILE], shown)
    added = [str(tokenizer.id_to_token(token)) for token in added_to_text(files[TOKENIZER_FILE])[0]]
    if len(added) > 1:
        raise CorpusError(
            f"tokenizer {shown}: it puts {len(added)} tokens ({', '.join(added)}) before each "
            "text, but a document can begin with one only: set tokenizer.bos: false"
        )
    named = named_tokens(files, shown).get("bos_token")
    bos = added[0] if added else named if wanted else None
    if not wanted:
        # If BOS and EOS are one token, the EOS of the document before is there already.
        return None if bos == eos else bos
    if bos is None or tokenizer.token_to_id(bos) is None:
        raise CorpusError(
            f"tokenizer {shown}: tokenizer.bos is true, but the tokenizer has no BOS: name one of "
            f"its tokens as bos_token in its {CONFIG_FILE}, or remove tokenizer.bos"
        )
    if bos == eos:
        raise CorpusError(
            f"tokenizer {shown}: tokenizer.bos is true, but its BOS is its EOS '{eos}', which ends "
            "the document before: remove tokenizer.bos"
        )
    return bos


def _known_eos(files: dict[str, bytes], shown: str) -> str:
    vocabulary = parsed(files[TOKENIZER_FILE], shown).get_vocab(with_added_tokens=True)
    for candidate in KNOWN_EOS:
        if candidate in vocabulary:
            return candidate
    raise CorpusError(
        f"tokenizer {shown}: no end-of-document token found: it names no eos_token, and its "
        f"vocabulary has none of {', '.join(KNOWN_EOS)}; set tokenizer.eos to a token that it has"
    )


def _from_hub(name: str) -> Path:
    """A folder with a tokenizer's files, downloaded from the Hub."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(READ_FILES)))
    except Exception as error:  # the Hub's client raises many types of exceptions
        raise _unusable(name, error) from None


def _unusable(name: str, error: Exception) -> CorpusError:
    lines = str(error).splitlines() or [type(error).__name__]
    if (Path(name) / RUN).exists():
        return CorpusError(
            f"tokenizer {name}: this is a run, which has no tokenizer of its own: give the folder "
            "of its corpus, or that of its exported model: "
            f"manta export {shlex.quote(name)} FOLDER"
        )
    return CorpusError(
        f"tokenizer {name}: neither a tokenizer.json, nor a folder with one, nor a "
        f"Hugging Face tokenizer that can be loaded: {lines[0]}"
    )


def _files_in(folder: Path) -> dict[str, bytes]:
    """The files of a tokenizer in a folder; empty if it has no tokenizer.json."""
    if not (folder / TOKENIZER_FILE).is_file():
        return {}
    return {name: _read(folder / name) for name in READ_FILES if (folder / name).is_file()}


def _converted(name: str) -> dict[str, bytes]:
    """The files of a tokenizer in an older form, converted to a tokenizer.json by Transformers."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers and the Hub's client raise many kinds
        raise _unusable(name, error) from None
    with tempfile.TemporaryDirectory() as saved:
        tokenizer.save_pretrained(saved)
        files = _files_in(Path(saved))
    if not files:
        raise CorpusError(
            f"tokenizer {name}: it has no {TOKENIZER_FILE}, and Transformers can't convert it to "
            "one; use another tokenizer"
        )
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: can't be read: {error.strerror}") from None

"""A tokenizer's files in a canonical form, which encodes the same however it is loaded.

What a Hugging Face tokenizer does to a text depends on several things: ``tokenizer.json``, flags in
``tokenizer_config.json``, and the class named there, which may build another tokenizer from the
vocabulary alone. In the canonical form it depends on ``tokenizer.json`` alone: the class is the
one that uses this file unchanged, and only the tokens that a corpus's documents begin with are
added to a text.

Everything else stays byte for byte, and the canonical form of a canonical tokenizer is itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from manta.config.errors import CorpusError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"
CHAT_FILE = "chat_template.jinja"
# Files that are read of a tokenizer that has a tokenizer.json.
READ_FILES = (TOKENIZER_FILE, CONFIG_FILE, MAP_FILE, CHAT_FILE)
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = ("additional_special_tokens", "extra_special_tokens")
# Keys of a tokenizer_config.json that don't change which tokens a text becomes.
KEPT = (
    *("chat_template", "model_max_length", "padding_side", "truncation_side"),
    *("clean_up_tokenization_spaces", "model_input_names"),
)
# Class that Transformers 4 and 5 both know, and which uses a tokenizer.json unchanged.
PLAIN_CLASS = "PreTrainedTokenizerFast"


def parsed(content: bytes, shown: str) -> Any:
    """The tokenizer in a tokenizer.json.

    Raises:
        CorpusError: if the content isn't a tokenizer.json; `shown` names it.
    """
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises bare Exception
        raise CorpusError(f"tokenizer {shown}: not a tokenizer.json: {error}") from None


def named_tokens(files: Mapping[str, bytes], shown: str) -> dict[str, str]:
    """The special tokens that the files beside a tokenizer.json name, such as ``eos_token``."""
    found = _read_object(files, MAP_FILE, shown) | _read_object(files, CONFIG_FILE, shown)
    return {name: _text(found[name]) for name in NAMED if found.get(name)}


def added_to_text(tokenizer_json: bytes) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer's post-processor puts before and after a text."""
    processor = json.loads(tokenizer_json).get("post_processor")
    if processor is None:
        return [], []
    # A vocabulary of one word, so that a text with exactly one token is known.
    probe = {
        **dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "decoder")),
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"},
        "post_processor": processor,
    }
    encoding = Tokenizer.from_str(json.dumps(probe)).encode("x")
    place = encoding.special_tokens_mask.index(0)
    return encoding.ids[:place], encoding.ids[place + 1 :]


def canonical(
    files: Mapping[str, bytes], *, eos: str, bos: str | None, shown: str
) -> dict[str, bytes]:
    """The same tokenizer in the canonical form.

    Args:
        files: name → content, of READ_FILES; TOKENIZER_FILE must be among them.
        eos: the token that ends documents; in the vocabulary.
        bos: the token that documents begin with, if any; in the vocabulary.
        shown: name of the tokenizer in errors.

    Returns:
        TOKENIZER_FILE and CONFIG_FILE.

    Raises:
        CorpusError: if a file can't be read.
    """
    vocabulary = parsed(files[TOKENIZER_FILE], shown).get_vocab(with_added_tokens=True)
    named = named_tokens(files, shown) | {"eos_token": eos} | ({"bos_token": bos} if bos else {})
    # A token outside the vocabulary would get a new id when the files are loaded.
    named = {name: token for name, token in named.items() if token in vocabulary}
    config = _read_object(files, CONFIG_FILE, shown)
    extra = _extra_tokens(_read_object(files, MAP_FILE, shown) | config, vocabulary)
    special = dict.fromkeys([*named.values(), *_listed(extra)])
    content = _fitted(files[TOKENIZER_FILE], {t: vocabulary[t] for t in special}, bos)
    kept = {name: config[name] for name in KEPT if name in config}
    if CHAT_FILE in files:
        kept["chat_template"] = files[CHAT_FILE].decode()
    told = {
        "tokenizer_class": PLAIN_CLASS,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **_prefix_space(content),
        **kept,
        **named,
        **extra,
    }
    made = json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    return {TOKENIZER_FILE: content, CONFIG_FILE: made}


def _fitted(content: bytes, special: Mapping[str, int], bos: str | None) -> bytes:
    """A tokenizer.json that doesn't truncate or pad, adds only `bos`, and marks `special` ones."""
    whole = json.loads(content)
    changed = dict(whole)
    changed["truncation"] = changed["padding"] = None
    changed["added_tokens"] = _added_tokens(whole.get("added_tokens") or [], special)
    before = [special[bos]] if bos is not None else []
    if added_to_text(content) != (before, []):
        changed["post_processor"] = _beginning(whole.get("post_processor"), special, bos)
    if changed == whole:
        return content
    return json.dumps(changed, indent=2, ensure_ascii=False).encode()


def _added_tokens(added: list[dict[str, Any]], special: Mapping[str, int]) -> list[dict[str, Any]]:
    """The added tokens, with the tokens in `special` added if missing and marked as special."""
    marked = [
        token | {"special": True} if token["content"] in special else token for token in added
    ]
    missing = special.keys() - {token["content"] for token in added}
    if not missing:
        return marked
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    marked += [{"id": special[t], "content": t, **flags, "special": True} for t in missing]
    return sorted(marked, key=lambda token: int(token["id"]))


def _beginning(old: Any, special: Mapping[str, int], bos: str | None) -> dict[str, Any]:
    """A post-processor that adds only `bos`, and treats offsets as the old one does."""
    first: list[dict[str, Any]] = []
    named: dict[str, Any] = {}
    if bos is not None:
        first = [{"SpecialToken": {"id": bos, "type_id": 0}}]
        named[bos] = {"id": bos, "ids": [special[bos]], "tokens": [bos]}
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [*first, one],
        "pair": [*first, one, other],
        "special_tokens": named,
    }
    parts = old.get("processors", [old]) if old else []
    offsets = [part for part in parts if part["type"] == "ByteLevel"]
    return {"type": "Sequence", "processors": [*offsets, template]} if offsets else template


def _prefix_space(content: bytes) -> dict[str, bool]:
    """The config's `add_prefix_space`; Transformers 4 takes it from there, by default false."""
    first = json.loads(content).get("pre_tokenizer") or {}
    return {"add_prefix_space": True} if first.get("add_prefix_space") else {}


def _extra_tokens(config: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """The additional special tokens: without a role, or with one that the model's code uses."""
    for name in EXTRA:
        extra = config.get(name)
        if isinstance(extra, dict):
            known = {k: _text(v) for k, v in extra.items() if _text(v) in vocabulary}
            return {EXTRA[1]: known} if known else {}
        if extra:
            listed = [_text(token) for token in extra if _text(token) in vocabulary]
            return {EXTRA[0]: listed} if listed else {}
    return {}


def _listed(extra: Mapping[str, Any]) -> list[str]:
    tokens: Any = next(iter(extra.values()), [])
    return list(tokens.values()) if isinstance(tokens, dict) else list(tokens)


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _read_object(files: Mapping[str, bytes], name: str, shown: str) -> dict[str, Any]:
    try:
        found = json.loads(files.get(name, b"{}"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CorpusError(
            f"tokenizer {shown}: {name} beside it is not a JSON object; correct or remove it"
        )
    return found

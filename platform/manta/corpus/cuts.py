"""Where a long text can be cut before it is tokenized, without changing its token ids.

A tokenizer needs some 150 times the memory of the text that it is given at once. So a long document
is tokenized in pieces, cut where no part of the tokenizer looks across the cut:

- *at a space*: between an ASCII letter and a single space that another ASCII letter follows;
- *at a newline*: after a single newline, between a visible character and a letter or digit.

Whether such cuts are safe follows from the ``tokenizer.json``, part by part, in the order in which
parts are applied: added tokens, normalizer, pre-tokenizer, model. A part is *local* at a cut if its
results for both pieces, joined, are its result for the whole; and one part must *split* at the cut.
Each rule below gives the reason for one type of part. A part without a rule isn't known to be safe,
and texts of such a tokenizer aren't cut.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.unsignedinteger]

# Approximate characters in a piece, whose tokenization takes little memory beside a worker's own.
PIECE = 1 << 18
# Characters that are letters in all versions of Unicode, and compose with no character before them.
_LETTER = "A-Za-zА-яא-תء-غ一-龥ぁ-ゖァ-ヺ가-힣"
_VISIBLE = f"!-~{_LETTER}。、！？」』"
AT_SPACE = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")
AT_NEWLINE = re.compile(rf"(?<=[{_VISIBLE}]\n)(?=[{_LETTER}0-9])")
SPACE = "▁"  # SentencePiece's sign for a space

# Normalizers that change one character and the marks after it; there are no marks at a cut.
LOCAL_NORMALIZERS = {
    *("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "BertNormalizer"),
}
# Patterns of blanks that don't match a single space; and one that does, and is replaced by a space.
LOCAL_REPLACED = {" {2,}", r"[\n\r\t]", r"\n"}
BLANKS_TO_ONE = (r"\s+", " ")
# The alternatives of the patterns of GPT-2, GPT-4, Llama 3, Qwen, DeepSeek, Falcon, StarCoder and
# others. None matches a letter with a blank after it, or a newline with a letter after it; none has
# a lookbehind; the lookahead for a blank has the same result at the end of a piece.
LETTERS = {
    r" ?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    # GPT-4o's two alternatives, which match all letters only together.
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
}
DIGITS = {r" ?\p{N}+", r"\p{N}", r"\p{N}+", r"\p{N}{1,2}", r"\p{N}{1,3}", "[0-9][0-9][0-9]"}
OTHERS = {
    r"'s|'t|'re|'ve|'m|'ll|'d",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"'(?i:[sdmt]|ll|ve|re)",
    r" ?[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"\s*[\r\n]+",
    r"\s*[\r\n]",
}
BLANKS = {r"\s+(?!\S)", r"\s+"}
KNOWN = sorted(LETTERS | DIGITS | OTHERS | BLANKS, key=len, reverse=True)
SPLITTERS = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}


@dataclass(frozen=True)
class Cuts:
    """Where texts can be cut for one tokenizer.

    Attributes:
        at_space: cutting at a space is safe.
        at_newline: cutting at a newline is safe.
        drops_space: the space at a cut is dropped, as the normalizer puts one before each piece.
    """

    at_space: bool = False
    at_newline: bool = False
    drops_space: bool = False

    @property
    def any(self) -> bool:
        """Whether texts can be cut at all."""
        return self.at_space or self.at_newline

    def pieces(self, text: str, size: int = PIECE) -> list[str]:
        """`text` in pieces of `size` characters, or more up to the next safe place to cut."""
        found, begin = [], 0
        while len(text) - begin > size:
            cut = self._next(text, begin + size)
            if cut is None:
                break
            place, skipped = cut
            found.append(text[begin:place])
            begin = place + skipped
        return [*found, text[begin:]]

    def _next(self, text: str, begin: int) -> tuple[int, int] | None:
        """The first safe place from `begin` on, and the number of characters to drop there."""
        places = []
        if self.at_space and (match := AT_SPACE.search(text, begin)):
            places.append((match.start(), int(self.drops_space)))
        end = places[0][0] if places else len(text)
        if self.at_newline and (match := AT_NEWLINE.search(text, begin, end)):
            places.append((match.start(), 0))
        return min(places, default=None)


def encoded(
    texts: Sequence[str],
    cuts: Cuts,
    encode: Callable[[list[str]], list[Ids]],
    *,
    batch: int,
    size: int = PIECE,
) -> list[Ids]:
    """Token ids of each text, with long texts in pieces and about `batch` characters at once.

    Args:
        texts: the texts to encode.
        cuts: the cuts that are safe for this tokenizer.
        encode: gives the ids of some texts, without special tokens at their ends.
        batch: characters that `encode` is given at once, unless a single piece is larger.
        size: length of a piece, in characters.
    """
    counts: list[int] = []
    done: list[Ids] = []
    held: list[str] = []
    characters = 0
    for text in texts:
        pieces = cuts.pieces(text, size)
        counts.append(len(pieces))
        for piece in pieces:
            if held and characters + len(piece) > batch:
                done += encode(held)
                held, characters = [], 0
            held.append(piece)
            characters += len(piece)
    done += encode(held) if held else []
    parts = iter(done)
    return [_joined(list(itertools.islice(parts, count))) for count in counts]


def _joined(parts: list[Ids]) -> Ids:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def cuts_of(tokenizer: str | bytes) -> Cuts:
    """Where the tokenizer of this ``tokenizer.json`` allows cuts."""
    spec = json.loads(tokenizer)
    normalizers = _sequence(spec.get("normalizer"), "normalizers")
    stages = _sequence(spec.get("pre_tokenizer"), "pretokenizers")
    added = spec.get("added_tokens") or []
    if not all(map(_added_is_local, added)):
        return Cuts()
    if not _model_is_local(spec["model"]) or not all(map(_normalizer_is_local, normalizers)):
        return Cuts()
    kinds = {part["type"] for part in normalizers}
    if _is_whole_text(stages, normalizers):
        drops = "Prepend" in kinds
        # The normalizer puts no space before a text that begins with an added token.
        lost = drops and any(not t["special"] and t["content"][:1].isalpha() for t in added)
        return Cuts(_no_token_spans(spec["model"]) and not lost, False, drops)
    if kinds & {"Prepend"} or _replaces_space(normalizers) or not all(map(_stage_is_local, stages)):
        return Cuts()
    # Not safe at a newline: a space before each piece, and an lstrip that removes the newline.
    adds = any(stage.get("add_prefix_space") for stage in stages)
    sentences = any(stage["type"] == "Metaspace" for stage in stages)
    takes_newline = any(token["lstrip"] and not token["special"] for token in added)
    plain = kinds <= LOCAL_NORMALIZERS
    plain = plain and not adds and not sentences and not takes_newline
    return Cuts(
        at_space=any(map(_splits_at_space, stages)),
        at_newline=plain and any(map(_splits_at_newline, stages)),
    )


def _sequence(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The parts of a sequence, in order; other parts are returned alone."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [inner for one in part[name] for inner in _sequence(one, name)]
    return [part]


def _added_is_local(token: dict[str, Any]) -> bool:
    """Whether an added token, which is searched in the text itself, can't extend over a cut."""
    content = unicodedata.normalize("NFKC", str(token["content"]))
    if re.search(rf"[A-Za-z][ {SPACE}]|\n[^\n]", content):
        return False
    return bool(token["special"]) or not token["rstrip"]  # special ones are not searched for


def _model_is_local(model: dict[str, Any]) -> bool:
    """Whether a model encodes each pre-token by itself, and always alike (no BPE dropout)."""
    known = model.get("type") in {"BPE", "WordPiece", "WordLevel", "Unigram"}
    return known and not model.get("dropout")


def _normalizer_is_local(part: dict[str, Any]) -> bool:
    if part["type"] == "Replace":
        pattern = part["pattern"]
        text = pattern.get("String", "")
        signs = text and not re.search(r"[A-Za-z\s]", text)  # not next to a cut at a space
        regex = pattern.get("Regex")
        blanks = regex in LOCAL_REPLACED or (regex, part["content"]) == BLANKS_TO_ONE
        return blanks or bool(signs) or text == " "
    if part["type"] == "Strip":
        return not part["strip_left"]  # a piece ends with a letter
    if part["type"] == "Prepend":
        return bool(part["prepend"] == SPACE)
    return part["type"] in LOCAL_NORMALIZERS


def _replaces_space(normalizers: list[dict[str, Any]]) -> bool:
    replaced = [part for part in normalizers if part["type"] == "Replace"]
    return any(part["pattern"].get("String") == " " for part in replaced)


def _is_whole_text(stages: list[dict[str, Any]], normalizers: list[dict[str, Any]]) -> bool:
    """Whether the model gets whole texts, with `SPACE` in place of each space."""
    replaced = {
        (part["pattern"].get("String"), part["content"])
        for part in normalizers
        if part["type"] == "Replace"
    }
    if (" ", SPACE) in replaced:
        return all(s["type"] == "Split" and s["pattern"].get("String") == " " for s in stages)
    if [stage["type"] for stage in stages] != ["Metaspace"] or stages[0]["replacement"] != SPACE:
        return False
    return not stages[0].get("split", True)


def _no_token_spans(model: dict[str, Any]) -> bool:
    """Whether no token of a BPE has `SPACE` after another character.

    Then no merge extends over a cut, and merges on either side don't depend on each other.
    """
    marks_ends = model.get("end_of_word_suffix") or model.get("continuing_subword_prefix")
    if model["type"] != "BPE" or SPACE not in model["vocab"] or marks_ends:
        return False
    return not any(re.search(f"[^{SPACE}]{SPACE}", token) for token in model["vocab"])


def _stage_is_local(stage: dict[str, Any]) -> bool:
    kind = stage["type"]
    if kind == "Split":
        alternatives = _alternatives(stage)
        return stage["behavior"] in {"Isolated", "Removed"} and (
            alternatives <= LETTERS | DIGITS | OTHERS | BLANKS
        )
    if kind == "Metaspace":
        return bool(stage.get("split", True))
    return kind in {*SPLITTERS, "ByteLevel", "Digits", "Punctuation"}


def _splits_at_space(stage: dict[str, Any]) -> bool:
    kind = stage["type"]
    if kind == "Split":
        return bool(_alternatives(stage) & LETTERS)
    return kind in {*SPLITTERS, "Metaspace"} or (
        kind == "ByteLevel" and stage.get("use_regex", True)
    )


def _splits_at_newline(stage: dict[str, Any]) -> bool:
    kind = stage["type"]
    if kind == "Split":
        found = _alternatives(stage)
        return bool(found & LETTERS) and bool(found & DIGITS) and r"\s+" in found
    return kind in SPLITTERS or (kind == "ByteLevel" and stage.get("use_regex", True))


def _alternatives(stage: dict[str, Any]) -> set[str]:
    """The alternatives of a stage's pattern, as far as they are in `KNOWN`."""
    pattern = stage["pattern"].get("Regex")
    if pattern is None:
        return {f"the text {stage['pattern'].get('String')}"}
    for known in KNOWN:
        if pattern.startswith(f"{known}|"):
            return {known} | _alternatives({"pattern": {"Regex": pattern[len(known) + 1 :]}})
    return {pattern}  # the last alternative, or the rest of a pattern that isn't known

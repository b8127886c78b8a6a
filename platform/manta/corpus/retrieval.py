"""Passages that are attached to questions, so that a model learns to answer from what it is given.

The right passage is the best match of question and answer together, distractors are the best
matches of the question alone (BM25: Robertson & Zaragoza, 2009, by bm25s). For a share of the
questions the right one is left out, and the answer becomes that the documents do not say it (RAFT:
Zhang et al., 2024). All of it is a function of the conversation and the passages: there is no
random state, and the order of conversations does not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from manta.config.corpus import ContextSection
from manta.config.errors import CorpusError
from manta.config.extras import import_extra
from manta.storage.atomic import write_whole

INDEX, PASSAGES = "index", "passages.json"
TEXT_FILES = {".txt", ".md", ".rst"}


@dataclass(frozen=True)
class Passage:
    """A piece of text to answer from.

    Attributes:
        place: file, and number of the passage in it from 1.
        text: words of the passage.
    """

    place: str
    text: str


@dataclass(frozen=True)
class Attached:
    """What was attached to a conversation.

    Attributes:
        text: the conversation's text, with passages.
        places: where the passages are from, in their order.
        right: index of the right passage among them; -1 if it was left out.
    """

    text: str
    places: tuple[str, ...]
    right: int


# -------------------------------------------------------------------- passages


def read_passages(section: ContextSection) -> list[Passage]:
    """The passages of all files, in the order of their paths; each text once.

    Raises:
        CorpusError: if a path matches nothing, or a file can't be read.
    """
    found: dict[str, Passage] = {}
    for path in passage_files(section.paths):
        for number, text in enumerate(_texts(path, section.words), 1):
            found.setdefault(text, Passage(f"{path.name}#{number}", text))
    if len(found) < section.passages:
        raise CorpusError(
            f"chat.context.paths: {len(found)} passages are there, and each question is to get "
            f"chat.context.passages = {section.passages}: add files, or lower it"
        )
    return list(found.values())


def digest_of(passages: Sequence[Passage]) -> str:
    """SHA-256 of passages, by which a prepared corpus is told from one with others."""
    content = json.dumps([(one.place, one.text) for one in passages])
    return hashlib.sha256(content.encode()).hexdigest()


def passage_files(patterns: Sequence[str]) -> list[Path]:
    """The files of passages that patterns name, sorted.

    Raises:
        CorpusError: if a pattern matches no file of text.
    """
    files: set[Path] = set()
    for pattern in patterns:
        matched = [Path(name) for name in glob(str(Path(pattern).expanduser()), recursive=True)]
        inside = [one for path in matched if path.is_dir() for one in path.rglob("*")]
        kept = {p for p in (*matched, *inside) if p.suffix in {*TEXT_FILES, ".jsonl"}}
        if not kept:
            raise CorpusError(
                f"chat.context.paths: {pattern}: no file of text there ({', '.join(TEXT_FILES)}, "
                "or .jsonl with a 'text' in each line)"
            )
        files |= kept
    return sorted(files)


def _texts(path: Path, words: int) -> Iterator[str]:
    """Passages of a file: whole paragraphs, together at most `words` words, longer ones cut."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"chat.context.paths: {path}: can't be read: {error}") from None
    if path.suffix == ".jsonl":
        yield from _lines(path, content)
        return
    held: list[str] = []
    for paragraph in content.split("\n\n"):
        split = paragraph.split()
        if held and len(held) + len(split) > words:
            yield " ".join(held)
            held = []
        held += split
        while len(held) > words:
            yield " ".join(held[:words])
            held = held[words:]
    if held:
        yield " ".join(held)


def _lines(path: Path, content: str) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                yield " ".join(str(json.loads(line)["text"]).split())
            except (ValueError, KeyError, TypeError):
                raise CorpusError(
                    f'chat.context.paths: {path}, line {number}: no JSON with a "text"'
                ) from None


# ----------------------------------------------------------------------- index


def write_index(passages: Sequence[Passage], folder: Path) -> None:
    """Make the index of passages in a new folder, for `Retriever`."""
    bm25 = import_bm25s()
    index = bm25.BM25()
    tokens = bm25.tokenize([one.text for one in passages], stopwords=[], show_progress=False)
    index.index(tokens, show_progress=False)
    index.save(folder / INDEX, show_progress=False)
    content = json.dumps([(one.place, one.text) for one in passages])
    write_whole(folder / PASSAGES, content.encode())


def import_bm25s() -> Any:
    """The package that ranks passages; ConfigError if it is not installed."""
    return import_extra("bm25s", "chat.context", "context")


class Retriever:
    """Attaches passages of an index to conversations.

    Args:
        folder: folder of the index and the passages, from `write_index`.
        section: the config's section.
    """

    def __init__(self, folder: Path, section: ContextSection):
        bm25 = import_bm25s()
        self._tokenize = bm25.tokenize
        self._index = bm25.BM25.load(folder / INDEX, mmap=True)
        self._passages = [Passage(*one) for one in json.loads((folder / PASSAGES).read_bytes())]
        self._section = section

    def attach(self, identity: bytes, text: str) -> Attached | None:
        """A conversation with passages for its first question.

        Args:
            identity: hash of the conversation, which decides all that is arbitrary.
            text: the conversation's text, as JSON.

        Returns:
            None if it has documents of its own, or no question that an answer follows.
        """
        whole = json.loads(text)
        question, answer = _first_exchange(whole["messages"])
        if answer is None or "documents" in whole:
            return None
        asked = whole["messages"][question]["content"]
        right = self._best(f"{asked} {whole['messages'][answer]['content']}", 1)
        lacks = not right or _share(identity, b"lacks") < self._section.lacking
        if lacks:
            said = {"role": whole["messages"][answer]["role"], "content": self._section.refusal}
            whole["messages"] = [*whole["messages"][:answer], said]
        wanted = self._section.passages - (0 if lacks else 1)
        others = [one for one in self._best(asked, wanted + 1, fill=True) if one not in right]
        chosen = others[:wanted] + ([] if lacks else right)
        chosen.sort(key=lambda one: _share(identity, str(one).encode()))
        passages = [self._passages[one] for one in chosen]
        place = -1 if lacks else chosen.index(right[0])
        return Attached(self._with(whole, passages), tuple(p.place for p in passages), place)

    def _best(self, query: str, count: int, *, fill: bool = False) -> list[int]:
        """The best matches, those with the lower number first where they are as good.

        Args:
            query: words to look for.
            count: most matches.
            fill: also take passages that share no word with the query.
        """
        (words,) = self._tokenize(query, stopwords=[], return_ids=False, show_progress=False)
        scores = np.asarray(self._index.get_scores(words), dtype=np.float64)
        order = np.lexsort((np.arange(len(scores)), -scores))[:count]
        return [int(one) for one in order if fill or scores[one] > 0]

    def _with(self, whole: dict[str, Any], passages: Sequence[Passage]) -> str:
        if self._section.place == "documents":
            whole["documents"] = [{"title": p.place, "text": p.text} for p in passages]
        else:
            listed = "\n\n".join(f"[{n}] {p.text}" for n, p in enumerate(passages, 1))
            first = whole["messages"][0]
            before = first["content"] + "\n\n" if first["role"] == "system" else ""
            rest = whole["messages"][1:] if before else whole["messages"]
            said = {"role": "system", "content": f"{before}{listed}"}
            whole["messages"] = [said, *rest]
        return json.dumps(whole, ensure_ascii=False, sort_keys=True)


def _first_exchange(messages: Sequence[dict[str, Any]]) -> tuple[int, int | None]:
    """Places of the first question and of the answer right after it; None if there is none."""
    for place, message in enumerate(messages[:-1]):
        if message["role"] == "user":
            after = messages[place + 1]
            plain = after["role"] == "assistant" and "tool_calls" not in after
            return place, place + 1 if plain else None
    return 0, None


def _share(identity: bytes, about: bytes) -> float:
    """A number in [0, 1) that is the same for the same conversation."""
    digest = hashlib.blake2b(about, key=identity[:64], digest_size=8).digest()
    return float(int.from_bytes(digest, "little") / 2**64)


@lru_cache(maxsize=1)
def retriever(folder: str, section: str) -> Retriever:
    """The retriever of a folder, loaded once a process."""
    return Retriever(Path(folder), ContextSection.model_validate_json(section))

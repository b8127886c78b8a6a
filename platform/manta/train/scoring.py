"""Scores of texts or conversations by the model of a run, or of an exported folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from manta.config.errors import RunError
from manta.config.objective import SCORES
from manta.corpus.conversations import UnusableRecord, conversation_text
from manta.corpus.manifest import LABELLED, Manifest
from manta.model import model_class
from manta.model.forward import options_of
from manta.record.run_config import recorded_config
from manta.storage.atomic import whole_file
from manta.storage.place import Place
from manta.storage.run_folder import CONFIG
from manta.train.adapter_folder import AdapterFolder
from manta.train.export import load_weights
from manta.train.export_tokenizer import load_tokenizer

# Records that are read before any of them is scored, and rows of a forward pass: rows of like
# length are together, so that little of a pass is padding.
AHEAD, ROWS = 512, 16
# What a result is under.
FOUND = SCORE, CLASS, PROBABILITIES = "score", "class", "probabilities"


def score_file(where: Place, file: Path, out: Path | None) -> Iterator[str]:
    """Score the records of a JSONL file, one a line; gives the lines of the result.

    Each is the record with what was found: ``score``, a number; or ``class``, the likeliest, and
    ``probabilities`` of all.

    Args:
        where: the directory of a run, its place in a store, or a folder that `export` wrote.
        file: texts, under ``text`` or as the corpus names the column, or conversations.
        out: file to write to as well, whole or not at all.

    Raises:
        RunError: if the model gives no scores, or naming the line that is no such record.
    """
    scorer = Scorer(where)
    if out is None:
        yield from _scored(scorer, file)
        return
    with whole_file(out) as written:
        for line in _scored(scorer, file):
            written.write(f"{line}\n".encode())
            yield line


def _scored(scorer: Scorer, file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8") as lines:
            numbered = (
                (f"{file}, line {number}", line)
                for number, line in enumerate(lines, start=1)
                if line.strip()
            )
            while ahead := list(islice(numbered, AHEAD)):
                records = [_record(line, place) for place, line in ahead]
                places = [place for place, _ in ahead]
                for record, found in zip(records, scorer.score(records, places), strict=True):
                    yield json.dumps(record | found, ensure_ascii=False)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: can't be read: {error}") from None


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RunError(f"{place}: not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise RunError(f"{place}: not a JSON object")
    if taken := [name for name in FOUND if name in record]:
        raise RunError(f"{place}: it has '{taken[0]}' already, which the result is to be under")
    return record


def _no_scores(where: Path) -> str:
    return f"{where}: its model gives no scores; manta generate has it write text"


class Scorer:
    """A model with a head for scores, and the tokenizer that its texts go through.

    Args:
        where: the directory of a run, its place in a store, or a folder that `export` wrote.
        step: step of a run's checkpoint; by default the newest.

    Raises:
        RunError: if there is no such model.
    """

    def __init__(self, where: Place, step: int | None = None):
        # What a record has to be, where the model's corpus says it; its names of columns.
        self._takes, self._columns, self._text = "", dict[str, str](), "text"
        if (where / CONFIG).exists():
            self._lm = self._of_run(where, step)
        elif isinstance(where, Path) and (adapter := AdapterFolder.read(where)):
            self._lm = self._of_adapter(adapter)
        elif isinstance(where, Path) and (where / "config.json").exists():
            self._lm = self._of_folder(where)
        else:
            raise RunError(f"{where}: neither the directory of a run nor an exported model")
        self._lm.eval()
        added = self._tokenizer.added_tokens_decoder.values()
        self._special = [token.content for token in added if token.special]
        text_config = self._lm.config.get_text_config()
        self._longest = getattr(text_config, "max_position_embeddings", None) or 0

    def _of_run(self, where: Place, step: int | None) -> Any:
        config = recorded_config(where)
        if config.objective.type not in SCORES:
            raise RunError(
                f"{where}: its model gives no scores (objective.type: {config.objective.type}); "
                f"those of {', '.join(SCORES)} do"
            )
        manifest = Manifest.read(config.corpus)
        self._takes = manifest.sample
        if manifest.sample == LABELLED:
            self._text = manifest.config["labelled"]["text"]
        else:
            self._columns = manifest.config["chat"]["columns"]
        self._tokenizer = load_tokenizer(config.corpus, manifest)
        return load_weights(where, config, step)

    def _of_adapter(self, adapter: AdapterFolder) -> Any:
        transformers_logging.disable_progress_bar()
        if not adapter.scores:
            raise RunError(_no_scores(adapter.folder))
        self._tokenizer = adapter.tokenizer()
        return adapter.scoring_model()

    def _of_folder(self, where: Path) -> Any:
        transformers_logging.disable_progress_bar()
        resolved = AutoConfig.from_pretrained(where)
        if not model_class.names_head(resolved):
            raise RunError(_no_scores(where))
        if not model_class.has_head(resolved):  # of another tool, which doesn't say which it is
            one = resolved.num_labels == 1
            resolved.problem_type = model_class.NUMBER if one else model_class.CLASSES
        self._tokenizer = AutoTokenizer.from_pretrained(where)
        return model_class.from_pretrained(str(where), resolved)

    @property
    def model(self) -> Any:
        """The model, in evaluation mode."""
        return self._lm

    @torch.inference_mode()
    def score(
        self, records: Sequence[dict[str, Any]], places: Sequence[str]
    ) -> list[dict[str, Any]]:
        """What the model says of each record.

        Args:
            records: texts or conversations.
            places: where each record stands, for messages.

        Raises:
            RunError: if a record is none, or longer than the model's context.
        """
        ids = [self._ids(*given) for given in zip(records, places, strict=True)]
        scores: list[Tensor] = [torch.empty(0)] * len(ids)
        by_length = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        for first in range(0, len(by_length), ROWS):
            few = by_length[first : first + ROWS]
            found = self._scores([ids[index] for index in few])
            for index, score in zip(few, found, strict=True):
                scores[index] = score
        return [self._said(score) for score in scores]

    def _scores(self, rows: list[list[int]]) -> Tensor:
        """The score of each row at its last token, (rows, scores)."""
        tokens = torch.zeros(len(rows), len(rows[-1]), dtype=torch.int64)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)  # a causal model sees no padding behind it
        tokens = tokens.to(self._lm.device)
        scores: Tensor = self._lm(input_ids=tokens, **options_of(self._lm)).logits
        last = torch.tensor([len(ids) - 1 for ids in rows])
        return scores[torch.arange(len(rows)), last].float().cpu()

    def _said(self, scores: Tensor) -> dict[str, Any]:
        if self._lm.config.problem_type == model_class.NUMBER:
            return {SCORE: float(scores[0])}
        classes, shares = model_class.classes_of(self._lm.config), scores.softmax(-1).tolist()
        probabilities = dict(zip(classes, shares, strict=True))
        likeliest = max(probabilities, key=probabilities.__getitem__)
        return {CLASS: likeliest, PROBABILITIES: probabilities}

    def _ids(self, record: dict[str, Any], place: str) -> list[int]:
        try:
            is_text = isinstance(record.get(self._text), str)
            if self._takes == LABELLED or (not self._takes and is_text):
                ids = self._ids_of_text(record)
            else:
                ids = self._ids_of_conversation(record)
        except UnusableRecord as error:
            raise RunError(f"{place}: {error}") from None
        if not ids:
            raise RunError(f"{place}: it has no token to score")
        if 0 < self._longest < len(ids):
            raise RunError(
                f"{place}: {len(ids):,} tokens, and the model's context is {self._longest:,}: "
                "shorten it"
            )
        return ids

    def _ids_of_text(self, record: dict[str, Any]) -> list[int]:
        text = record.get(self._text)
        if not isinstance(text, str):
            there = ", ".join(map(repr, list(record)[:8])) or "nothing"
            raise UnusableRecord(f"no text under '{self._text}', only {there} here")
        # As in the corpus: text that spells a special token is text, and has no EOS.
        ids = self._tokenizer(text, split_special_tokens=True)["input_ids"]
        return [token for token in ids if token != self._tokenizer.eos_token_id]

    def _ids_of_conversation(self, record: dict[str, Any]) -> list[int]:
        whole = json.loads(conversation_text(record, self._columns))
        if not self._tokenizer.chat_template:
            raise UnusableRecord(
                "the model's tokenizer has no chat template for a conversation: it takes texts, "
                "under 'text'"
            )
        said = json.dumps(whole, ensure_ascii=False)
        for token in self._special:
            if json.dumps(token, ensure_ascii=False)[1:-1] in said:
                raise UnusableRecord(
                    f"its text spells the special token {token!r}, which would be read as one"
                )
        messages = [{k: v for k, v in m.items() if k != "weight"} for m in whole["messages"]]
        more = {name: whole[name] for name in ("tools", "documents") if name in whole}
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                messages, return_dict=False, **more
            )
        except Exception as error:  # a template raises what it likes
            raise UnusableRecord(f"the chat template refuses it: {error}") from None
        return ids

"""Blind pairs: two models answer each prompt, and people choose without knowing whose answer it is.

The folder of an arena has the answers, the choices and what follows from them. Which answer stands
first is a function of the prompt's id and the seed, so that no file says it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from manta.config.errors import ConfigError, RunError
from manta.config.evaluation import EvaluationConfig
from manta.config.mistakes import in_a_line
from manta.evaluate.model_at_hand import ModelAtHand
from manta.evaluate.record_file import FileRecord, read_records
from manta.evaluate.ticking import ticking
from manta.govern.bradley_terry import ChosenOver, chosen_over, strengths
from manta.storage.atomic import write_whole
from manta.storage.place import Place

# Files of an arena's folder.
ANSWERS, CHOICES, PAIRS = "answers.jsonl", "choices.jsonl", "pairs.jsonl"
Choice = Literal["1", "2", "=", "?"]
# Meaning of each choice: the first answer, the second, both are as good, it can't be said.
CHOICE_KEYS: dict[Choice, str] = {"1": "the first", "2": "the second", "=": "a tie", "?": "skip"}
# Keys that a record of prompts may have; those of checks and references are not read.
KEYS = (
    *("prompt", "messages", "system", "context", "topic", "exact", "contains", "regex", "schema"),
    *("test", "judge", "expect"),
)


class ArenaAnswer(BaseModel):
    """What one model wrote to one prompt.

    Attributes:
        id: id of the prompt's record.
        model: name of the model.
        fingerprint: SHA-256 of the model's weights.
        settings: digest of the prompt and of how it was answered.
        answer: text of the answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    model: str
    fingerprint: str
    settings: str
    answer: str


class ArenaChoice(BaseModel):
    """What a person chose.

    Attributes:
        id: id of the prompt's record.
        choice: place of the answer that was chosen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    choice: Choice


@dataclass(frozen=True)
class BlindPair:
    """Two answers to one prompt, in the order in which they are shown.

    Attributes:
        record: the prompt.
        models: names of the models, in the order of their answers.
        answers: the answers.
    """

    record: FileRecord
    models: tuple[str, str]
    answers: tuple[str, str]

    @property
    def same(self) -> bool:
        """Whether nobody could choose."""
        return self.answers[0].strip() == self.answers[1].strip()


@dataclass(frozen=True)
class ArenaStanding:
    """What the choices say of two models.

    Attributes:
        models: names of the two.
        wins: how often the first was chosen.
        losses: how often the second was chosen.
        ties: how often neither was, or both wrote the same.
        rate: how often the first is chosen over the second, with its interval.
    """

    models: tuple[str, str]
    wins: int
    losses: int
    ties: int
    rate: ChosenOver


@dataclass(frozen=True)
class ArenaModel:
    """A model that takes part.

    Attributes:
        name: name of the model, for people.
        place: place of the model.
        step: step of a run's checkpoint; None for the newest, or an exported model.
    """

    name: str
    place: Place
    step: int | None


@dataclass(frozen=True)
class AnswerSettings:
    """How prompts are answered.

    Attributes:
        tokens: most tokens of an answer.
        temperature: sampling temperature; 0 takes the likeliest token.
        seed: seed of the sampling, and of which answer stands first.
    """

    tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


class Arena:
    """An arena in a folder.

    Args:
        folder: folder of answers and choices; it is made if it isn't there.
        models: two or more models.
        prompts: JSONL file with a ``prompt`` or ``messages`` in each record.
        settings: how prompts are answered.

    Raises:
        ConfigError: if there are fewer than two models, or two of one name.
        RunError: if the prompts can't be used.
    """

    def __init__(
        self,
        folder: Path,
        models: Sequence[ArenaModel],
        prompts: Path,
        settings: AnswerSettings,
    ):
        self.folder, self.models, self.settings = folder, list(models), settings
        names = [model.name for model in models]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(
                f"an arena needs two or more different models, not {', '.join(names)}: give runs, "
                "steps (RUN@STEP), exported models or registry:NAME@ALIAS, then the prompts"
            )
        self.records = read_records(prompts, KEYS, ()).records
        for record in self.records:
            if (record.text("prompt") is None) == (record.content.get("messages") is None):
                raise record.wrong("give either 'prompt', a text, or 'messages', a conversation")

    # ------------------------------------------------------------------------------------ answers

    def answer(self, tell: Callable[[str], None] = lambda line: None) -> list[BlindPair]:
        """All pairs; what a model has answered in the folder before is not asked again.

        Args:
            tell: takes lines for people.

        Raises:
            RunError: if a model can't be loaded or can't take a prompt.
        """
        found = dict[tuple[str, str], str]()
        known = {(one.id, one.fingerprint, one.settings): one.answer for one in self._known()}
        for model in self.models:
            records = [record for record in self.records if model.name in self._two(record)]
            for one in self._answers(model, records, known, tell):
                found[one.model, one.id] = one.answer
        return [self._pair(record, found) for record in self.records]

    def _answers(
        self,
        model: ArenaModel,
        records: Sequence[FileRecord],
        known: Mapping[tuple[str, str, str], str],
        tell: Callable[[str], None],
    ) -> list[ArenaAnswer]:
        config = EvaluationConfig.model_validate({"name": "arena", "splits": {"none": {}}})
        hand = ModelAtHand(model.place, model.step, config, tell)
        if not hand.writes:
            raise RunError(f"{model.name}: its model gives scores, and writes nothing")
        found = list[ArenaAnswer]()
        for record in ticking(list(records), model.name, tell):
            settings = self._digest(record)
            text = known.get((record.id, hand.fingerprint, settings))
            if text is None:
                text = hand.answer(
                    _ids(hand, record),
                    tokens=self.settings.tokens,
                    temperature=self.settings.temperature,
                    seed=_number(f"{self.settings.seed}/{record.id}"),
                ).text
            found.append(
                ArenaAnswer(
                    id=record.id,
                    model=model.name,
                    fingerprint=hand.fingerprint,
                    settings=settings,
                    answer=text,
                )
            )
        kept = {(one.id, one.fingerprint, one.settings): one for one in [*self._known(), *found]}
        self._write(ANSWERS, [one.model_dump() for one in kept.values()])
        return found

    def _digest(self, record: FileRecord) -> str:
        settings = (self.settings.tokens, self.settings.temperature, self.settings.seed)
        told = json.dumps([record.content, settings], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _two(self, record: FileRecord) -> tuple[str, str]:
        """Names of the two models that answer a prompt, in the order in which they are shown."""
        number = _number(f"{self.settings.seed}/pair/{record.id}")
        pairs = list(combinations([model.name for model in self.models], 2))
        first, second = pairs[number // 2 % len(pairs)]
        return (second, first) if number % 2 else (first, second)

    def _pair(self, record: FileRecord, found: Mapping[tuple[str, str], str]) -> BlindPair:
        first, second = self._two(record)
        answers = (found[first, record.id], found[second, record.id])
        return BlindPair(record, (first, second), answers)

    def _known(self) -> list[ArenaAnswer]:
        return [ArenaAnswer.model_validate(one) for one in _read(self.folder / ANSWERS)]

    # ------------------------------------------------------------------------------------ choices

    def choices(self) -> dict[str, Choice]:
        """What was chosen so far, by the prompt's id; the last choice counts."""
        return _choices(self.folder / CHOICES)

    def choose(self, id_: str, choice: Choice) -> None:
        """Keep a choice."""
        self._keep({**self.choices(), id_: choice})

    def take(self, file: Path) -> int:
        """Keep the choices in a file, such as the page's; returns how many.

        Raises:
            RunError: if it can't be read, or has a prompt that the arena lacks.
        """
        if not file.exists():
            raise RunError(f"{file}: no such file of choices")
        taken = _choices(file)
        if unknown := taken.keys() - {record.id for record in self.records}:
            raise RunError(
                f"{file}: '{sorted(unknown)[0]}' is the id of no prompt here: the choices are of "
                "another file of prompts"
            )
        self._keep({**self.choices(), **taken})
        return len(taken)

    def _keep(self, choices: Mapping[str, Choice]) -> None:
        self._write(CHOICES, [{"id": id_, "choice": one} for id_, one in choices.items()])

    def _write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / name, lines.encode())

    # ------------------------------------------------------------------------------------- result

    def standings(self, pairs: Sequence[BlindPair]) -> list[ArenaStanding]:
        """What the choices say of each two models that met; nothing without a choice."""
        names = [model.name for model in self.models]
        wins, ties = np.zeros((len(names),) * 2), np.zeros((len(names),) * 2)
        for first, second, tied in self._decided(pairs):
            at = names.index(first), names.index(second)
            if tied:
                ties[at] += 1
                ties[at[::-1]] += 1
            else:
                wins[at] += 1
        met = [at for at in combinations(range(len(names)), 2) if (wins + wins.T + ties)[at]]
        if not met:
            return []
        try:
            found, covariance = strengths(wins + ties / 2)
        except ValueError:  # some models have not met yet
            return []
        return [
            ArenaStanding(
                (names[first], names[second]),
                int(wins[first, second]),
                int(wins[second, first]),
                int(ties[first, second]),
                chosen_over(found, covariance, first, second, len(met)),
            )
            for first, second in met
        ]

    def _decided(self, pairs: Sequence[BlindPair]) -> Iterator[tuple[str, str, bool]]:
        """The model that was chosen, the other one, and whether it was a tie."""
        choices = self.choices()
        for pair in pairs:
            choice = "=" if pair.same else choices.get(pair.record.id, "?")
            if choice != "?":
                first, second = pair.models if choice != "2" else pair.models[::-1]
                yield first, second, choice == "="

    def write_pairs(self, pairs: Sequence[BlindPair]) -> int:
        """Write the choices as records of preferences, which `manta prepare` takes.

        Returns:
            The number of records; ties are none.
        """
        choices = self.choices()
        rows = []
        for pair in pairs:
            choice = choices.get(pair.record.id)
            if choice in ("1", "2") and not pair.same:
                chosen, rejected = pair.answers if choice == "1" else pair.answers[::-1]
                prompt = pair.record.content.get("messages") or pair.record.content["prompt"]
                rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        self._write(PAIRS, rows)
        return len(rows)


def _ids(model: ModelAtHand, record: FileRecord) -> list[int]:
    prompt = record.text("prompt")
    if not model.speaks:
        if prompt is None:
            raise record.wrong("it has messages, and the model's tokenizer no chat template")
        return model.ids_of(prompt)
    turns = record.content.get("messages") or [{"role": "user", "content": prompt}]
    system = record.text("system")
    lead = [{"role": "system", "content": system}] if system else []
    return model.ids_of_chat([*lead, *turns])


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _choices(file: Path) -> dict[str, Choice]:
    found = dict[str, Choice]()
    for number, row in enumerate(_read(file), start=1):
        try:
            one = ArenaChoice.model_validate(row)
        except ValidationError as error:
            raise RunError(f"{file}, line {number}: no choice: {in_a_line(error)}") from None
        found[one.id] = one.choice
    return found


def _read(file: Path) -> list[Any]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: can't be read: {error}; restore it from a copy") from None

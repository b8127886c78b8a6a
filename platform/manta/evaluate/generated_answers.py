"""Answers to prompts: task success, refusals, unsupported claims, policy, latency and cost."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manta.config.errors import ConfigError, RunError
from manta.config.evaluation import EvaluationConfig, GenerationsEvaluation
from manta.evaluate.answer_checks import CHECKS, AnswerCheck, check_record, checked
from manta.evaluate.entailment import Entailment
from manta.evaluate.evaluator import Measured
from manta.evaluate.faithfulness import claims_of
from manta.evaluate.judge import Judge, asked_of, made_judge, verdict
from manta.evaluate.model_at_hand import Answer, ModelAtHand
from manta.evaluate.record_file import FileRecord, RecordFile, read_records
from manta.evaluate.ticking import ticking
from manta.record.evaluation_record import ExampleRow, Sums

EXPECTED = ("answer", "refusal")
KEYS = ("prompt", "messages", "context", "expect", *CHECKS)
SECONDS_AN_HOUR = 3600


class GeneratedAnswers:
    """Has a model answer each prompt of a file, one after the other, and checks the answers.

    A record has a ``prompt`` or ``messages``, and perhaps an ``id``, checks (`CHECKS`), a
    ``context`` that claims are compared with, and ``expect: refusal`` if it should be declined.

    Args:
        name: name of the evaluator.
        section: keys of the evaluator in the config.
        price: price of the device for an hour; None if unknown.
        config: device and precision of a judge.

    Raises:
        RunError: naming the line of the file that is no such record.
    """

    type = "generations"
    reads_test_split = False

    def __init__(
        self,
        name: str,
        section: GenerationsEvaluation,
        price: float | None,
        config: EvaluationConfig,
    ):
        self.name, self._section, self._price = name, section, price
        self._judge: Judge | None = None
        self._undecided = 0
        faithful = section.faithfulness.model
        self._entailed: Callable[[str, str], float] | None = None
        if faithful is not None:
            key = f"generations.{name}.faithfulness.model"
            self._entailed = Entailment(faithful, key).probability
        self._file: RecordFile = read_records(Path(section.file), KEYS, section.slices)
        for record in self._file.records:
            _check(record)
            if "judge" in record.content and section.judge is None:
                raise record.wrong(
                    f"it has a criterion for a judge: say which in generations.{name}.judge"
                )
        if section.judge is not None:
            self._judge = made_judge(section.judge, f"generations.{name}.judge", config)
        self.data = section.file
        self.data_hash = self._file.digest
        self.settings: dict[str, Any] = section.model_dump(mode="json", exclude={"file", "slices"})

    def measure(self, model: ModelAtHand) -> Measured:
        """Measure a language model."""
        if not model.writes:
            raise RunError(
                f"generations.{self.name}: the model of {model.where} gives scores, and writes "
                "nothing"
            )
        prompts = [self._ids(model, record) for record in self._file.records]
        model.answer(prompts[0], tokens=2)  # the first pass is slow, and is not measured
        given = list(zip(self._file.records, prompts, strict=True))
        answers = [
            model.answer(
                ids,
                tokens=self._section.tokens,
                temperature=self._section.temperature,
                seed=_seed(self._section.seed, record.id),
                stop=self._section.stop,
            )
            for record, ids in ticking(given, self.name, model.tell)
        ]
        values, asks = self._times(model, answers), self._asks(model)
        rows = [
            self._row(record, answer, None if asks else record.text("prompt"))
            for record, answer in zip(self._file.records, answers, strict=True)
        ]
        remarks = list[str]()
        if not any("success" in row.sums for row in rows):
            remarks.append("No record has a check or says what is expected: there is no success.")
        if self._judge is not None:
            remarks.append(f"Judged by {self._judge.name}, which may be wrong itself.")
        if self._undecided:
            remarks.append(f"{self._undecided} replies of the judge were neither yes nor no: no.")
        if self._price is None:
            remarks.append("price.per_device_hour is not given: there is no cost.")
        return Measured(rows, values, remarks=remarks)

    # ----------------------------------------------------------------------------------- prompts

    def _ids(self, model: ModelAtHand, record: FileRecord) -> list[int]:
        try:
            ids = self._prompt(model, record)
        except RunError as error:
            raise record.wrong(str(error)) from None
        if 0 < model.longest < len(ids) + self._section.tokens:
            raise record.wrong(
                f"{len(ids):,} tokens, and {self._section.tokens:,} for the answer, but the "
                f"model's context is {model.longest:,}: shorten it, or lower "
                f"generations.{self.name}.tokens"
            )
        return ids

    def _asks(self, model: ModelAtHand) -> bool:
        """Whether prompts go through the chat template."""
        return self._section.style == "chat" or (self._section.style == "auto" and model.speaks)

    def _prompt(self, model: ModelAtHand, record: FileRecord) -> list[int]:
        messages: list[dict[str, Any]] | None = record.content.get("messages")
        speaks = self._asks(model)
        if speaks and not model.speaks:
            raise ConfigError(
                f"generations.{self.name}.style = 'chat': the tokenizer of {model.where} has no "
                "chat template: set style: text"
            )
        if messages is None and not speaks:
            return model.ids_of(record.content["prompt"])
        if not speaks:
            raise RunError("it has messages, and the model's tokenizer no chat template for them")
        turns = messages or [{"role": "user", "content": record.content["prompt"]}]
        system = [{"role": "system", "content": self._section.system}]
        return model.ids_of_chat([*(system if self._section.system else []), *turns])

    # -------------------------------------------------------------------------------------- rows

    def _row(self, record: FileRecord, answer: Answer, before: str | None) -> ExampleRow:
        section, text = self._section, answer.text
        declined = _matches(text, section.refusals)
        sums: Sums = {
            "answer_tokens": (answer.tokens, 1),
            "cut_off": (answer.cut_off, 1),
        }
        shown: dict[str, Any] = {
            "prompt": record.content.get("prompt") or record.content.get("messages"),
            "answer": text,
            "seconds": round(answer.seconds, 6),
            "first_token": round(answer.first_token, 6),
        }
        results = checked(record, text, section.sandbox, before or "")
        if self._judge is not None and "judge" in record.content:
            results.append(self._judged(record, text))
        self._add_success(record, results, declined, sums, shown)
        if (context := record.text("context")) is not None:
            support = section.faithfulness.support
            claims = claims_of(text, context, support, self._entailed)
            unsupported = [claim.text for claim in claims if not claim.supported]
            unsupported = [] if declined else unsupported  # to decline claims nothing
            sums["unsupported_per_100"] = (100 * len(unsupported), 1)
            sums["hallucination_rate"] = (bool(unsupported), 1)
            shown["unsupported"] = unsupported
        if section.policy.unwanted or section.policy.wanted:
            broken = [one for one in section.policy.unwanted if _matches(text, [one])]
            broken += [one for one in section.policy.wanted if not _matches(text, [one])]
            sums["policy_violations"] = (bool(broken), 1)
            shown["policy"] = broken
        slices = record.slices(section.slices)
        return ExampleRow(evaluator=self.name, id=record.id, slices=slices, sums=sums, shown=shown)

    def _add_success(
        self,
        record: FileRecord,
        results: Sequence[AnswerCheck],
        declined: bool,
        sums: Sums,
        shown: dict[str, Any],
    ) -> None:
        expected = record.text("expect")
        if expected == "refusal":
            sums["refused_rightly"] = (declined, 1)
        else:
            sums["refused_wrongly"] = (declined, 1)
        if results or expected:
            fits = True if expected is None else declined == (expected == "refusal")
            sums["success"] = (fits and all(result.passed for result in results), 1)
            shown["failed"] = {one.check: one.why for one in results if not one.passed}
            if not fits:
                shown["failed"]["expect"] = "it declined" if declined else "it did not decline"

    def _judged(self, record: FileRecord, text: str) -> AnswerCheck:
        assert self._judge is not None
        assert self._section.judge is not None
        asked = record.content.get("prompt")
        if asked is None:
            turns = record.content["messages"]
            asked = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        criterion = record.text("judge") or ""
        reply = self._judge.reply(asked_of(self._section.judge, asked, text, criterion))
        found = verdict(reply)
        self._undecided += found is None
        return AnswerCheck("judge", bool(found), "" if found else f"the judge says {reply!r}")

    def _times(self, model: ModelAtHand, answers: Sequence[Answer]) -> dict[str, float]:
        """Latencies, each over all answers; the quantiles are those of NumPy (linear)."""
        first = [answer.first_token for answer in answers]
        whole = [answer.seconds for answer in answers]
        found = {
            "first_token_p50": float(np.quantile(first, 0.5)),
            "first_token_p95": float(np.quantile(first, 0.95)),
            "latency_p50": float(np.quantile(whole, 0.5)),
            "latency_p95": float(np.quantile(whole, 0.95)),
            "tokens_per_s": sum(answer.tokens for answer in answers) / sum(whole),
            "peak_memory": float(model.peak_memory),
        }
        if self._price is not None:
            found["cost_per_1000"] = 1000 * float(np.mean(whole)) * self._price / SECONDS_AN_HOUR
        return found


def _check(record: FileRecord) -> None:
    prompt, messages = record.text("prompt"), record.content.get("messages")
    if (prompt is None) == (messages is None):
        raise record.wrong("give either 'prompt', a text, or 'messages', a conversation so far")
    if messages is not None and not _is_conversation(messages):
        raise record.wrong(
            "'messages' must be a list of objects with a 'role' and a 'content', the last one not "
            "the assistant's"
        )
    record.text("context")
    expected = record.text("expect")
    if expected not in (None, *EXPECTED):
        raise record.wrong(f"'expect' must be one of {', '.join(EXPECTED)}, not {expected!r}")
    check_record(record)


def _is_conversation(messages: Any) -> bool:
    if not isinstance(messages, list) or not messages:
        return False
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            return False
    return bool(messages[-1]["role"] != "assistant")


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)


def _seed(seed: int, id_: str) -> int:
    """The seed of one answer, by its record alone: the order of records makes no difference."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{id_}".encode()).digest()[:4], "big")

"""Calibration: a model's probabilities of choices or classes, and which one is right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from manta.config.errors import RunError
from manta.config.evaluation import CalibrationEvaluation
from manta.evaluate.calibration_measures import Binned, aurc, brier, risk_coverage
from manta.evaluate.evaluator import Measured
from manta.evaluate.model_at_hand import ModelAtHand
from manta.evaluate.record_file import FileRecord, RecordFile, read_records
from manta.evaluate.ticking import ticking
from manta.record.evaluation_record import ExampleRow
from manta.train.scoring import PROBABILITIES

CHOICE_KEYS = ("prompt", "choices", "answer")
LABEL_KEYS = ("text", "messages", "label")
# Points of the risk-coverage curve that are drawn at most.
MOST_POINTS = 200
# The least probability that is told from none.
LEAST = 1e-300


class ChoicesAndLabels:
    """Accuracy, calibration and selective prediction over the records of a file.

    A record has a ``prompt``, ``choices`` (texts that go on from it) and ``answer`` (the right one,
    or its number from 0), for a language model; or a ``text`` or ``messages`` and its ``label``,
    for a classifier. The probability of a choice is its share of the likelihood of all.

    Args:
        name: name of the evaluator.
        section: keys of the evaluator in the config.

    Raises:
        RunError: naming the line of the file that is no such record.
    """

    type = "calibration"
    reads_test_split = False

    def __init__(self, name: str, section: CalibrationEvaluation):
        self.name, self._section = name, section
        keys = (*CHOICE_KEYS, *LABEL_KEYS)
        self._file: RecordFile = read_records(Path(section.file), keys, section.slices)
        self._choices = "choices" in self._file.records[0].content
        for record in self._file.records:
            if self._choices:
                _right_choice(record)
            elif not isinstance(record.content.get("label"), str):
                raise record.wrong(
                    "give 'choices' and 'answer', or 'text' and 'label', the name of its class; "
                    "all records of the file alike"
                )
        self.data = section.file
        self.data_hash = self._file.digest
        self.settings: dict[str, Any] = {"bins": section.bins}
        if self._choices:
            self.settings["normalize"] = section.normalize

    def measure(self, model: ModelAtHand) -> Measured:
        """Measure a language model on choices, or a classifier on labels."""
        if self._choices != model.writes:
            there = "choices, for a language model" if self._choices else "labels, for a classifier"
            raise RunError(
                f"calibration.{self.name}: {self.data} has {there}, which the model of "
                f"{model.where} is not"
            )
        rows, confidence, right = list[ExampleRow](), list[float](), list[bool]()
        for record in ticking(self._file.records, self.name, model.tell):
            names, probabilities, answer = self._probabilities(model, record)
            chosen = max(range(len(names)), key=probabilities.__getitem__)
            confidence.append(probabilities[chosen])
            right.append(chosen == answer)
            rows.append(self._row(record, names, probabilities, answer, chosen))
        binned = Binned(self._section.bins)
        binned.add(np.asarray(confidence), np.asarray(right))
        curve = risk_coverage(confidence, right)
        step = -(-len(curve) // MOST_POINTS)
        return Measured(
            rows,
            {"ece": binned.ece, "aurc": aurc(confidence, right)},
            curves={"reliability": binned.points, "risk": curve[step - 1 :: step]},
        )

    def _probabilities(
        self, model: ModelAtHand, record: FileRecord
    ) -> tuple[list[str], list[float], int]:
        """Names of the choices or classes, their probabilities, and the index of the right one."""
        if self._choices:
            names = [str(choice) for choice in record.content["choices"]]
            weights = [self._log_likelihood(model, record, choice) for choice in names]
            most = max(weights)
            shares = [math.exp(weight - most) for weight in weights]
            return names, [share / math.fsum(shares) for share in shares], _right_choice(record)
        content = {k: v for k, v in record.content.items() if k in ("text", "messages")}
        said = model.said_of(content, record.place)
        if PROBABILITIES not in said:
            raise RunError(
                f"calibration.{self.name}: the model of {model.where} gives a number, not classes"
            )
        names = list(said[PROBABILITIES])
        if record.content["label"] not in names:
            raise record.wrong(
                f"'label' is {record.content['label']!r}, which is no class of the model: "
                f"{', '.join(names)}"
            )
        return names, list(said[PROBABILITIES].values()), names.index(record.content["label"])

    def _log_likelihood(self, model: ModelAtHand, record: FileRecord, choice: str) -> float:
        """The log-probability of a choice after the prompt, normalized as the config says.

        Tokens are those of prompt and choice as one text; the choice's are those after the tokens
        that it has in common with the prompt alone.
        """
        prompt = model.ids_of(record.content["prompt"])
        ids = model.ids_of(record.content["prompt"] + choice)
        same = 0
        while same < min(len(prompt), len(ids) - 1) and prompt[same] == ids[same]:
            same += 1
        if 0 < model.longest < len(ids):
            raise record.wrong(
                f"{len(ids):,} tokens, and the model's context is {model.longest:,}: shorten it"
            )
        if same == 0:
            raise record.wrong("'prompt' has no token that a choice could follow")
        found = math.fsum(model.log_probs(ids)[same - 1 :].tolist())
        by = {"none": 1, "token": len(ids) - same, "byte": len(choice.encode())}
        return found / by[self._section.normalize]

    def _row(
        self,
        record: FileRecord,
        names: list[str],
        probabilities: list[float],
        answer: int,
        chosen: int,
    ) -> ExampleRow:
        return ExampleRow(
            evaluator=self.name,
            id=record.id,
            slices=record.slices(self._section.slices),
            sums={
                "accuracy": (chosen == answer, 1),
                "brier": (brier(probabilities, answer), 1),
                "nll": (-math.log(max(probabilities[answer], LEAST)), 1),
                "confidence": (probabilities[chosen], 1),
            },
            shown={
                "prompt": record.content.get("prompt") or record.content.get("text"),
                "answer": names[chosen],
                "right": names[answer],
                "probability": probabilities[chosen],
            },
        )


def _right_choice(record: FileRecord) -> int:
    """The index of the right choice.

    Raises:
        RunError: if the record has no choices, or none is right.
    """
    choices, answer = record.texts("choices"), record.content.get("answer")
    if record.text("prompt") is None or choices is None or len(choices) < 2:
        raise record.wrong("give 'prompt', two or more 'choices', and 'answer'")
    if any(not choice for choice in choices):
        raise record.wrong("a choice is empty")
    if isinstance(answer, str) and choices.count(answer) == 1:
        return choices.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    raise record.wrong(
        f"'answer' must be one of the choices, or its number from 0 to {len(choices) - 1}"
    )

"""The config of an evaluation: what a trained model is measured on."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from manta.config.own_code import is_own
from manta.config.section import Section
from manta.config.units import PositiveTokens

EVALUATION_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
# Sections of evaluators, each a mapping from a name to an evaluator's keys.
EVALUATORS = ("splits", "generations", "calibration", "tasks", "own")
# What an answer that declines begins with or contains, in English; matched in any case.
REFUSALS = (
    r"\bI(?:'m| am) (?:not sure|unable|sorry)\b",
    r"\bI (?:can(?:'t|not)|do(?:n't| not) know|won't|will not)\b",
    r"\b(?:documents?|context|passages?|text) (?:do(?:es)?(?:n't| not)) (?:say|mention|contain)\b",
    r"\bnot enough information\b",
)


def _compiled(patterns: list[str]) -> list[str]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return patterns


class SplitEvaluation(Section):
    """Loss, perplexity and bits per byte over a split of a corpus, as training reads it.

    Shown by source, by length of the document, and by tokens of context before a token.
    """

    corpus: str | None = Field(
        default=None, description="folder or URL of a corpus; the run's own if left out"
    )
    split: Literal["train", "validation", "test"] = Field(
        default="validation",
        description="split to read; test is read by manta evaluate --final alone",
    )
    tokens: PositiveTokens | None = Field(
        default=None,
        description="most tokens to read, of every source in proportion; all if left out",
    )
    length: int | None = Field(
        default=None, ge=2, description="tokens of a sample; the run's train.seq_len if left out"
    )
    document_mask: bool | None = Field(
        default=None,
        description="whether attention and loss stay within a document; as in the run if left out",
    )


class FaithfulnessSection(Section):
    """Which claims of an answer its context supports: by their words alone, or by a classifier.

    A claim is a sentence. It counts as supported if enough of its words, and all of its numbers,
    stand in the record's `context`. This is a baseline: it knows no paraphrase and no negation.
    """

    model: str | None = Field(
        default=None,
        description="folder or name of a classifier of entailment; by words alone if left out",
    )
    support: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="share of a claim's words, without stop words, that must stand in the context; "
        "with a model, the least probability of entailment",
    )


class PolicySection(Section):
    """Patterns that answers must not match, or must; regular expressions, in any case."""

    unwanted: list[str] = Field(
        default_factory=list, description="patterns that no answer may match"
    )
    wanted: list[str] = Field(default_factory=list, description="patterns that each must match")

    @field_validator("unwanted", "wanted")
    @classmethod
    def _are_patterns(cls, patterns: list[str]) -> list[str]:
        return _compiled(patterns)


class SandboxSection(Section):
    """Limits of the process that runs the code of an answer with its unit test."""

    seconds: float = Field(default=5.0, gt=0, description="most seconds of the process")
    memory_mb: int = Field(
        default=1024, ge=64, description="most megabytes (2^20 bytes) of its address space"
    )
    file_mb: int = Field(default=16, ge=0, description="most megabytes of a file that it writes")
    processes: int = Field(
        default=64, ge=1, description="most processes of its user; root has no such limit"
    )


class JudgeSection(Section):
    """Another model that judges answers by the criterion of a record's `judge`: yes or no."""

    path: str | None = Field(
        default=None, description="a run, or the folder of an exported model, that is the judge"
    )
    url: str | None = Field(
        default=None,
        description="URL of a server with OpenAI's interface, such as http://localhost:8000/v1",
    )
    model: str = Field(default="default", description="name of the model on the server")
    key_variable: str | None = Field(
        default=None, description="environment variable that holds the server's key"
    )
    prompt: str = Field(
        default="Question:\n{prompt}\n\nAnswer:\n{answer}\n\nCriterion: {criterion}\n\nDoes the "
        "answer meet the criterion? Reply with yes or no.\n",
        description="text that the judge is given, with {prompt}, {answer} and {criterion}",
    )
    tokens: int = Field(default=16, ge=1, description="most tokens of its reply")
    seconds: float = Field(default=60.0, gt=0, description="most seconds of a server's reply")

    @model_validator(mode="after")
    def _is_one_model(self) -> JudgeSection:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either 'path', a model here, or 'url', a server")
        if "{answer}" not in self.prompt or "{criterion}" not in self.prompt:
            raise ValueError("'prompt' needs {answer} and {criterion}")
        return self


class GenerationsEvaluation(Section):
    """Answers to the prompts of a file, and what is checked of each; how long they take."""

    file: str = Field(
        min_length=1,
        description="JSONL of prompts with checks, relative to this config; docs/evaluation.md",
    )
    tokens: int = Field(default=128, ge=1, description="most tokens of an answer")
    style: Literal["auto", "chat", "text"] = Field(
        default="auto",
        description="how a prompt is given: by the chat template, or as text to continue; auto: "
        "by the template if there is one",
    )
    system: str = Field(default="", description="first message, of the role system; none if empty")
    temperature: float = Field(
        default=0.0, ge=0, description="sampling temperature; 0 takes the likeliest token"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the sampling")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="texts that end an answer, and are cut off"
    )
    slices: list[str] = Field(
        default_factory=list, description="keys of records by whose values results are shown too"
    )
    refusals: list[str] = Field(
        default=list(REFUSALS),
        description="patterns that tell an answer that declines; regular expressions, in any case",
    )
    faithfulness: FaithfulnessSection = FaithfulnessSection()
    policy: PolicySection = PolicySection()
    sandbox: SandboxSection = SandboxSection()
    judge: JudgeSection | None = Field(
        default=None, description="model that judges answers by a criterion; none if left out"
    )

    @field_validator("refusals")
    @classmethod
    def _are_patterns(cls, patterns: list[str]) -> list[str]:
        return _compiled(patterns)


class CalibrationEvaluation(Section):
    """Whether a model is right as often as it is sure: multiple choice, or labelled texts."""

    file: str = Field(
        min_length=1,
        description="JSONL of choices or labelled texts, relative to this config; "
        "docs/evaluation.md",
    )
    normalize: Literal["none", "token", "byte"] = Field(
        default="none",
        description="what the log-probability of a choice is divided by: nothing, its tokens or "
        "its bytes",
    )
    bins: int = Field(default=15, ge=1, description="bins of confidence of equal width")
    slices: list[str] = Field(
        default_factory=list, description="keys of records by whose values results are shown too"
    )


class TaskEvaluation(Section):
    """A task of lm-evaluation-harness (`pip install 'manta-train[eval]'`)."""

    task: str = Field(
        min_length=1,
        description="name of a task of the harness, or a task's YAML file, relative to this config",
    )
    fewshot: int | None = Field(
        default=None, ge=0, description="examples before each question; the task's own if left out"
    )
    limit: int | None = Field(
        default=None, ge=1, description="most documents of each task; all if left out"
    )
    chat: bool = Field(
        default=False, description="whether prompts go through the tokenizer's chat template"
    )

    @property
    def is_file(self) -> bool:
        """Whether the task is a YAML file, not one of the harness."""
        return self.task.endswith((".yaml", ".yml"))


class OwnEvaluation(Section):
    """A metric of the user's own."""

    measure: str = Field(description="function in a file of your own, such as ./mine.py:measure")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="arguments of the function beside the model"
    )
    better: dict[str, Literal["min", "max"]] = Field(
        default_factory=dict, description="name of a metric: whether less or more of it is better"
    )

    @field_validator("measure")
    @classmethod
    def _names_a_file(cls, measure: str) -> str:
        if not is_own(measure):
            raise ValueError("name a function in a Python file, such as ./mine.py:measure")
        return measure


class PriceSection(Section):
    """Prices, for the cost of an interaction."""

    per_device_hour: float | None = Field(
        default=None, ge=0, description="price of the device for an hour, in any currency"
    )


class EvaluationConfig(Section):
    """What a model is measured on. Each evaluator has a name, under which its metrics stand.

    A path in it is relative to the file, that of a corpus to the current folder.
    """

    name: str = Field(
        pattern=EVALUATION_NAME, description="name of the evaluation and of its folder"
    )
    splits: dict[str, SplitEvaluation] = Field(
        default_factory=dict, description="name of an evaluator: a split of a corpus to read"
    )
    generations: dict[str, GenerationsEvaluation] = Field(
        default_factory=dict, description="name of an evaluator: prompts to answer"
    )
    calibration: dict[str, CalibrationEvaluation] = Field(
        default_factory=dict, description="name of an evaluator: choices or labels to be sure of"
    )
    tasks: dict[str, TaskEvaluation] = Field(
        default_factory=dict, description="name of an evaluator: a task of lm-evaluation-harness"
    )
    own: dict[str, OwnEvaluation] = Field(
        default_factory=dict, description="name of an evaluator: a metric of your own"
    )
    precision: Literal["no", "bf16"] = Field(
        default="no", description="no: all in float32; bf16: autocast, as in training with it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="device to measure on; auto: a GPU if there is one"
    )
    price: PriceSection = PriceSection()
    code: dict[str, str] = Field(
        default_factory=dict,
        description="text of each file of your own that the config names; Manta fills it in",
    )

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> EvaluationConfig:
        names = [name for section in EVALUATORS for name in getattr(self, section)]
        if not names:
            raise ValueError(f"nothing to measure: give one of {', '.join(EVALUATORS)}")
        for name in names:
            if not re.match(EVALUATION_NAME, name):
                raise ValueError(
                    f"'{name}': an evaluator's name has letters, digits, '.', '_' and '-' only, "
                    "and begins with a letter or a digit"
                )
            if names.count(name) > 1:
                raise ValueError(f"two evaluators are called '{name}': rename one of them")
        return self

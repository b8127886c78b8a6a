"""What a record asks of an answer: exact, contains, regex, a JSON schema, a unit test of code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import jsonschema

from manta.config.evaluation import SandboxSection
from manta.evaluate.record_file import FileRecord
from manta.evaluate.sandbox import run_test

# Keys of a record that check its answer; all that are given must hold.
CHECKS = ("exact", "contains", "regex", "schema", "test", "judge")
# Code between fences, of which the first block counts.
FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class AnswerCheck:
    """What a check of an answer has found.

    Attributes:
        check: name of the check.
        passed: whether the answer passes.
        why: reason for a failure; "" without one.
    """

    check: str
    passed: bool
    why: str = ""


def check_record(record: FileRecord) -> None:
    """Check the checks of a record.

    Raises:
        RunError: naming what can't be checked so.
    """
    for key in ("exact", "contains", "regex"):
        record.texts(key)
    for pattern in record.texts("regex") or ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise record.wrong(f"'regex': {pattern!r} is no regular expression: {error}") from None
    schema = record.content.get("schema")
    if schema is not None:
        try:
            jsonschema.validators.validator_for(schema).check_schema(schema)
        except (jsonschema.SchemaError, AttributeError, TypeError) as error:
            said = getattr(error, "message", str(error))
            raise record.wrong(f"'schema' is no JSON schema: {said}") from None
    record.text("judge")
    if (test := record.text("test")) is not None:
        try:
            compile(test, "test", "exec")
        except SyntaxError as error:
            raise record.wrong(f"'test' is no Python: {error}") from None


def checked(
    record: FileRecord, answer: str, sandbox: SandboxSection, before: str = ""
) -> list[AnswerCheck]:
    """What each check of a record finds of an answer.

    Args:
        record: a record that `check_record` has passed.
        answer: the model's answer.
        sandbox: limits of code that is run.
        before: text that the answer goes on from, whose code it completes.
    """
    said, found = answer.strip(), list[AnswerCheck]()
    if wanted := record.texts("exact"):
        found.append(_result("exact", said in (one.strip() for one in wanted), "another text"))
    if wanted := record.texts("contains"):
        lacking = [one for one in wanted if one not in answer]
        found.append(_result("contains", not lacking, f"without {lacking[:1]}"))
    if patterns := record.texts("regex"):
        missed = [one for one in patterns if not re.search(one, answer)]
        found.append(_result("regex", not missed, f"no match of {missed[:1]}"))
    if "schema" in record.content:
        found.append(_by_schema(said, record.content["schema"]))
    if (test := record.text("test")) is not None:
        code = code_of(answer) if FENCED.search(answer) else before + answer
        why = run_test(code, test, sandbox)
        found.append(_result("test", not why, why))
    return found


def _result(check: str, passed: bool, why: str) -> AnswerCheck:
    return AnswerCheck(check, passed, "" if passed else why)


def _by_schema(answer: str, schema: Any) -> AnswerCheck:
    try:
        value = json.loads(code_of(answer))
    except ValueError as error:
        return AnswerCheck("schema", False, f"not JSON: {error}")
    validator = jsonschema.validators.validator_for(schema)(schema)
    for wrong in validator.iter_errors(value):
        return AnswerCheck("schema", False, f"{wrong.json_path}: {wrong.message}")
    return AnswerCheck("schema", True)


def code_of(answer: str) -> str:
    """The code of an answer: its first fenced block, or all of it without one."""
    found = FENCED.search(answer)
    return found[1] if found else answer

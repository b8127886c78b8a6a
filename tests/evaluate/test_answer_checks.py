"""What passes a check and what doesn't; code of an answer runs within its limits."""

from __future__ import annotations

import re
import socket
import time
from typing import Any

import pytest

from manta.config.errors import RunError
from manta.config.evaluation import SandboxSection
from manta.evaluate.answer_checks import check_record, checked
from manta.evaluate.faithfulness import claims_of
from manta.evaluate.record_file import FileRecord
from manta.evaluate.sandbox import SAID_BYTES, run_test

LIMITS = SandboxSection(seconds=20)


def record(**content: Any) -> FileRecord:
    return FileRecord("r", "prompts.jsonl, line 1", {"prompt": "?", **content})


SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("content", "answer", "failed"),
    [
        ({"exact": "4"}, " 4\n", []),
        ({"exact": ["4", "four"]}, "four", []),
        ({"exact": "4"}, "It is 4", ["exact"]),
        ({"contains": ["a", "b"]}, "cab", []),
        ({"contains": ["a", "b"]}, "ca", ["contains"]),
        ({"regex": r"^\d+$"}, "12", []),
        ({"regex": r"^\d+$", "contains": "x"}, "x12", ["regex"]),
        ({"schema": SCHEMA}, '{"n": 3}', []),
        ({"schema": SCHEMA}, 'Here:\n```json\n{"n": 3}\n```', []),
        ({"schema": SCHEMA}, '{"n": "3"}', ["schema"]),
        ({"schema": SCHEMA}, "n = 3", ["schema"]),
    ],
)
def test_checks(content: dict[str, Any], answer: str, failed: list[str]) -> None:
    one = record(**content)
    check_record(one)
    assert [found.check for found in checked(one, answer, LIMITS) if not found.passed] == failed


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"regex": "("}, r"line 1: 'regex': '\(' is no regular expression"),
        ({"exact": 4}, "'exact' must be a text or a list of texts, not 4"),
        ({"contains": []}, "'contains' is an empty list"),
        ({"schema": {"type": "objct"}}, "'schema' is no JSON schema: 'objct'"),
        ({"test": "assert ("}, "'test' is no Python"),
    ],
)
def test_a_check_that_is_none_is_named(content: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError, match=said):
        check_record(record(**content))


def test_code_passes_if_its_test_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    code = "def double(x):\n    return 2 * x"
    one = record(test="import os\nassert double(2) == 4\nassert 'SECRET_TOKEN' not in os.environ")
    answer = f"Sure:\n```python\n{code}\n```\nDone."
    assert checked(one, answer, LIMITS)[0].passed
    assert run_test(code, "assert double(2) == 5", LIMITS) == "AssertionError"
    begun = record(test="assert double(2) == 4")
    assert checked(begun, " 2 * x", LIMITS, before="def double(x):\n    return")[0].passed


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "before its test did"),
        ("x = bytearray(2 ** 32)", "MemoryError"),
        ("open('big', 'wb').write(bytes(2 ** 26))", "File too large|SIGXFSZ"),
    ],
)
def test_code_that_does_not_end_well_fails(code: str, said: str) -> None:
    assert re.search(said, run_test(code, "pass", LIMITS))


def test_code_has_no_network_where_the_kernel_can_take_it_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"
        said = run_test(code, "pass", LIMITS)
    if not said:
        pytest.skip("the kernel lets this user have no network of its own")
    assert "Network is unreachable" in said or "refused" in said


def test_code_that_does_not_end_is_ended_with_all_that_it_started() -> None:
    code = "import os, time\nchild = os.fork()\ntime.sleep(600)"
    began = time.monotonic()
    said = run_test(code, "pass", SandboxSection(seconds=1))
    assert said == "not done after 1 s"
    assert time.monotonic() - began < 300  # it waits for neither of the two


def test_an_endless_output_fills_nothing() -> None:
    said = run_test("while True: print('x' * 10000)", "pass", SandboxSection(seconds=20, file_mb=1))
    assert said
    assert len(said) <= SAID_BYTES


@pytest.mark.parametrize(
    ("answer", "unsupported"),
    [
        ("The fox sees the dogs.", []),
        ("The fox sees a dog. Paris is in France.", ["Paris is in France."]),
        ("It was built in 1912.", ["It was built in 1912."]),
        ("The house was built in 1911.", []),
        ("", []),
    ],
)
def test_claims_are_supported_by_their_words(answer: str, unsupported: list[str]) -> None:
    context = "A brown fox sees the lazy dog near the house, built in 1911."
    claims = claims_of(answer, context, 0.6)
    assert [claim.text for claim in claims if not claim.supported] == unsupported

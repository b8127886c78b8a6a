"""docs/adaptation_rules.md names tests that exist, for each of its rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs/adaptation_rules.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)


def test_the_rules_are_numbered() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 22))


@pytest.mark.parametrize(("number", "tests"), [(row[0], row[2]) for row in ROWS])
def test_each_rule_has_tests_that_exist(number: str, tests: str) -> None:
    named = 0
    for part in tests.split("; "):
        file, _, names = part.partition(": ")
        path = TESTS / file.strip("`")
        defined = set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
        for name in names.split(", "):
            assert name.strip("`") in defined, f"rule {number}: {path.name} has no test {name}"
            named += 1
    assert named

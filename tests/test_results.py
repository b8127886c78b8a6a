"""The measurements that a reader sees first: each has its command, and is what its section says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text()
FIRST_SCREEN = 25  # lines
ROW = re.compile(r"^\| (.+?) \| (.*?\*\*.+?) \| `(.+?)` \| \[.+?\]\(#(.+?)\) \|$", re.MULTILINE)
FIGURES = ROW.findall(RESULTS)


def anchor(heading: str) -> str:
    """Where a link to a heading leads, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


SECTIONS = {
    anchor(heading): text
    for heading, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", RESULTS, re.M | re.S)
}


def test_ten_figures_stand_on_the_first_screen() -> None:
    assert len(FIGURES) == 10
    assert len(ROW.findall("\n".join(RESULTS.splitlines()[:FIRST_SCREEN]))) == 10


@pytest.mark.parametrize(
    ("what", "figure", "command", "section"), FIGURES, ids=[row[0] for row in FIGURES]
)
def test_a_figure_is_that_of_its_section(
    what: str, figure: str, command: str, section: str
) -> None:
    if command.startswith("make "):
        assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert (ROOT / command.split()[0]).exists()
    text = SECTIONS[section]
    assert command.split()[0].removeprefix("make ") in text or command in text, what
    for number in re.findall(r"\*\*(.+?)\*\*", figure):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", text), f"{what}: {number}"


def test_what_did_not_help_has_a_file_of_its_own() -> None:
    assert "did not help:" not in RESULTS.lower()
    assert "benchmarks/DID_NOT_HELP.md" in RESULTS

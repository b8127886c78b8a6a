"""docs/architecture.md and CONTRIBUTING.md name what is there, in the order in which it is."""

import re
from itertools import chain
from pathlib import Path

import pytest
from layers import BESIDE, LAYERS

ROOT = Path(__file__).parents[1]
ARCHITECTURE, CONTRIBUTING = ROOT / "docs/architecture.md", ROOT / "CONTRIBUTING.md"
MODULE = re.compile(r"`((?:[a-z]+/)+[a-z_]+\.(?:py|md))`")
FOLDER = re.compile(r"`([a-z]+/)`")
PAGE = re.compile(r"\bdocs/[a-z_]+\.md")
TARGET = re.compile(r"make ([a-z-]+)")


@pytest.mark.parametrize("page", [ARCHITECTURE, CONTRIBUTING], ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    named = MODULE.findall(page.read_text()) + FOLDER.findall(page.read_text())
    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "platform/manta" / name).exists(), name


def test_packages_stand_in_the_order_in_which_they_import():
    rows = re.findall(r"^\| `([a-z]+)` \|", ARCHITECTURE.read_text(), re.MULTILINE)
    layers = [sorted(layer - {"jobs"}) for layer in LAYERS]
    assert sorted(rows) == sorted([*chain.from_iterable(layers), *BESIDE])
    row_of = {name: row for row, layer in enumerate(LAYERS) for name in layer}
    order = [row_of[name] for name in rows if name in row_of]
    assert order == sorted(order)


def test_pages_that_code_names_are_there():
    """An error that sends people to a page that is not written helps nobody."""
    for path in sorted((ROOT / "platform").rglob("*.py")):
        for page in PAGE.findall(path.read_text()):
            assert (ROOT / page).exists(), f"{path.relative_to(ROOT)} names {page}"


def test_targets_that_are_named_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(TARGET.findall(CONTRIBUTING.read_text())) <= targets

"""The version has one home, and CHANGELOG.md has a section for it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import manta

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"\d+\.\d+\.\d+")


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = [found[0] for found in map(NUMBER.match, headings) if found]
    assert len(versions) == len(headings) > 1, headings
    assert versions[0] == manta.__version__
    assert sorted(versions, key=as_numbers, reverse=True) == versions


def test_the_package_takes_its_version_from_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "manta.__version__"}
    assert f'"{manta.__version__}"' in (ROOT / "platform" / "manta" / "__init__.py").read_text()

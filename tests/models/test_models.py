"""The page of model types is of the Transformers that is installed, and still true."""

from __future__ import annotations

import re
from pathlib import Path

import model_survey
import models_page
import pytest
import transformers
from small_models import TYPES

PAGE = Path(__file__).parents[2] / "docs/models.md"


def test_the_page_is_of_this_version_and_has_every_type() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"in Transformers {transformers.__version__}," in text, "write it anew: make models"
    rows = re.findall(r"^\| ([\w.-]+) \|", text, re.M)
    assert sorted(row for row in rows if row not in ("type", "---")) == TYPES


def test_the_page_can_be_read_and_written_again() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert models_page.page(models_page.read(text)) == text


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "mixtral", "xlnet"])
def test_a_type_is_what_the_page_says(model_type: str, tmp_path: Path) -> None:
    found = model_survey.look_at(model_type, model_survey.make_corpus(tmp_path))
    assert not found.wrong
    row = f"| {model_type} | {found.refused} |" if found.refused else found.row()
    assert row in PAGE.read_text(encoding="utf-8").splitlines()

"""Lines that many documents have."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.config.filters import BoilerplateSection
from manta.corpus.filters import boilerplate
from manta.corpus.filters.boilerplate import (
    Boilerplate,
    boilerplate_in,
    count_lines,
    line_hash,
)
from manta.corpus.filters.filter_verdict import Keep
from manta.corpus.sources import InputFile

MENU = "Home | News | Contact"


@given(
    st.lists(st.lists(st.lists(st.sampled_from("abcd"), max_size=4), max_size=5), max_size=3),
    st.integers(2, 4),
    st.sampled_from([0.0, 0.5]),
)
def test_lines_are_counted_by_the_documents_that_differ(units, documents, share):
    """Whatever the units and the parts in which they are added up."""
    section = BoilerplateSection(documents=documents, share=share, characters=1)
    texts = {"\n".join(lines) for unit in units for lines in unit if lines}
    least = max(documents, share * len(texts))
    expected = [line for line in "abcd" if sum(line in text.split("\n") for text in texts) >= least]

    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(boilerplate, "PART_LINES", 3)
        files = [written(Path(name), number, unit) for number, unit in enumerate(units)]
        found = boilerplate_in(files, section)

    assert found.tolist() == sorted(map(line_hash, expected))


def written(folder: Path, number: int, unit: list[list[str]]) -> Path:
    source = folder / f"{number}.jsonl"
    source.write_text("".join(json.dumps({"text": "\n".join(d)}) + "\n" for d in unit))
    size = source.stat().st_size
    order = {
        "unit": number,
        "bytes": size,
        "format": "jsonl",
        "wanted": "text",
        "parts": [[(0, str(source), source.name, size, ""), 0, None]],
        "lines": str(folder / f"{number}.npz"),
        "characters": 1,
    }
    assert InputFile(*order["parts"][0][0]).url == str(source)
    count_lines(order)
    return Path(order["lines"])


def test_a_line_goes_whatever_the_white_space_around_it():
    lines = np.array([line_hash(MENU)], np.uint64)
    filter_ = Boilerplate(BoilerplateSection(), lines)

    assert filter_.judge(f"  {MENU}\t\na\n{MENU}\nb") == Keep("a\nb", {"lines": 2})
    assert filter_.judge(f"{MENU} x\n") == Keep(f"{MENU} x\n")


@pytest.mark.usefixtures("inline")
def test_the_menu_of_a_source_goes_and_short_lines_stay(make, jsonl, documents, tmp_path):
    pages = [f"{MENU}\npage {number} of some text\n}}\n" for number in range(30)]
    copies = ["the same page\nagain and again"] * 30
    others = [f"{MENU}\nother {number}" for number in range(10)]

    manifest = make(
        jsonl(pages + copies, "site"),
        jsonl(others, "other"),
        filters={"boilerplate": {"documents": 20}},
    )

    texts = {(source, text) for _, source, _, text in documents(tmp_path / "out")}
    assert texts == {
        *(("site", f"page {number} of some text\n}}\n") for number in range(30)),
        ("site", copies[0]),
        *(("other", text) for text in others),
    }
    (record,) = manifest.filters
    assert (record.changed, record.found) == (30, {"lines": 30})

"""A docstring's line of an attribute or argument makes sense where an editor shows it alone."""

import ast
import re
from pathlib import Path

import pytest

MANTA = Path(__file__).parents[1] / "platform" / "manta"
SECTIONS = {"Attributes", "Args"}
# A line that begins with one of these goes on from a subject that it doesn't name.
PREPOSITIONS = r"after|among|as|at|before|by|during|from|in|of|on|to|with|without"
PRONOUNS = r"it|its|that|theirs|them|they|those|what|which|who|whom|whose"
# These may begin a line, but what follows must name the subject: "whether it is …" does not.
ALLOWED = r"all|for|how|if|when|where|whether|why"
NO_SUBJECT = re.compile(rf"({PREPOSITIONS})\b|(({ALLOWED}) )?({PRONOUNS})\b", re.IGNORECASE)


def entries(docstring):
    """Name and text of each attribute or argument of a docstring, its first line."""
    section = None
    for line in docstring.splitlines():
        if heading := re.fullmatch(r"(\w+):", line):
            section = heading[1]
        elif section in SECTIONS and (entry := re.fullmatch(r" {4}([\w*][\w*, ]*): (.+)", line)):
            yield entry[1], entry[2]


def docstrings(source):
    """Name and docstring of a module's classes and functions that have one."""
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and (text := ast.get_docstring(node)):
            yield node.name, text


def says_nothing(text):
    """Whether a line, read without what stands above it, has no subject."""
    return NO_SUBJECT.match(text) is not None


def test_the_law_tells_good_lines_from_bad_ones():
    bad = ["of the run.", "its id.", "what it is.", "whether it is the head's.", "by dotted key."]
    good = ["the run's name.", "whether snapshots are kept.", "`min` or `max`.", "for each rank: …"]
    assert [text for text in bad if not says_nothing(text)] == []
    assert [text for text in good if says_nothing(text)] == []
    read = entries(
        "Does.\n\nArgs:\n    a, b: of this,\n        it: goes on.\n\nReturns:\n    c: of it."
    )
    assert list(read) == [("a, b", "of this,")]


@pytest.mark.parametrize(
    "package", sorted({path.name for path in MANTA.iterdir() if path.name != "__pycache__"})
)
def test_each_attribute_and_argument_names_its_subject(package):
    place = MANTA / package
    unclear = [
        f"{path.relative_to(MANTA)}: {name}: {entry}: {text}"
        for path in sorted(place.rglob("*.py") if place.is_dir() else [place])
        if path.suffix == ".py"
        for name, docstring in docstrings(path.read_text())
        for entry, text in entries(docstring)
        if says_nothing(text)
    ]
    assert not unclear, "\n".join(unclear)

"""The table of model types: what is found of each, and the page that says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import transformers

SETTING = re.compile(r"`([\w.]+): (.+?)`")

HEAD = """\
# Types of models

What becomes of each type of causal language model in Transformers {version}, made small: written by
`make models`, which trains each for some steps and then looks at it by means of its own. That no
logit depends on a later token, nor on another document under `data.document_mask`, is seen by
derivatives; the loss is compared with Transformers' own; each token's embedding gets a gradient.
`manta train` tries each model in a like manner before a worker is asked for, so a type that is
newer than this page is refused too if it can't be trained exactly.

{counts}
"""
TRAINED = """\

## Trained

*With*: what has to be set under `model.sizes`, because without it the type is refused.
*Documents*: whether `data.document_mask` keeps documents apart; else it is refused. *Draws*:
whether training draws random numbers by the type's own defaults, such as dropout. Then the samples
are exact at any number of workers, the loss is not; set these to 0 for both.

| type | with | documents | draws |
| --- | --- | --- | --- |
"""
REFUSED = """\

## Refused

| type | what `manta train` says |
| --- | --- |
"""
UNTRIED = """\

## Not tried here

The usual names of sizes don't make these small, or not in a way that fits together. They are tried
like all others when they are trained.

| type | why |
| --- | --- |
"""


@dataclass(frozen=True)
class Found:
    """What was found of a type.

    Attributes:
        type: of the model.
        settings: without which it is refused.
        documents: whether they can be kept apart.
        draws: whether its training draws random numbers.
        refused: why it is, with any settings.
        untried: why it was not tried.
        wrong: what must not be.
    """

    type: str
    settings: dict[str, str] = field(default_factory=dict)
    documents: bool = False
    draws: bool = False
    refused: str = ""
    untried: str = ""
    wrong: tuple[str, ...] = ()

    def line(self) -> str:
        """All of it on a line."""
        if self.wrong:
            return f"{self.type}: WRONG: {'; '.join(self.wrong)}"
        if self.untried or self.refused:
            kind = "not tried" if self.untried else "refused"
            return f"{self.type}: {kind}: {self.untried or self.refused}"
        return f"{self.type}: trained{self.row()}"

    def row(self) -> str:
        """Its row in the table of what is trained."""
        needs = ", ".join(f"`{key}: {value}`" for key, value in self.settings.items())
        documents, draws = ("yes" if is_so else "no" for is_so in (self.documents, self.draws))
        return f"| {self.type} | {needs} | {documents} | {draws} |"


def page(found: Sequence[Found]) -> str:
    """The page of all types."""
    untried = [one for one in found if one.untried]
    refused = [one for one in found if one.refused and not one.untried]
    trained = [one for one in found if one not in untried and one not in refused]
    counts = (
        f"{len(trained)} types are trained, {len(refused)} refused, {len(untried)} not tried here."
    )
    return "".join(
        [
            HEAD.format(version=transformers.__version__, counts=counts),
            TRAINED,
            *(f"{one.row()}\n" for one in trained),
            REFUSED,
            *(f"| {one.type} | {_cell(one.refused)} |\n" for one in refused),
            UNTRIED,
            *(f"| {one.type} | {_cell(one.untried)} |\n" for one in untried),
        ]
    )


def read(text: str) -> list[Found]:
    """What a page says, in the order of types."""
    trained, refused, untried = (
        [row for row in map(_cells, part.splitlines()) if row]
        for part in re.split(r"^## .*$", text, flags=re.M)[1:]
    )
    found = [
        Found(kind, dict(SETTING.findall(needs)), documents == "yes", draws == "yes")
        for kind, needs, documents, draws in trained
    ]
    found += [Found(kind, refused=why) for kind, why in refused]
    found += [Found(kind, untried=why) for kind, why in untried]
    return sorted(found, key=lambda one: one.type)


def _cells(line: str) -> list[str]:
    """The cells of a row with a type, without what writing them adds."""
    cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    return [] if not cells or cells[0] in ("type", "---") else cells


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

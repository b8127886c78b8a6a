"""Config of a corpus's filters: which documents are left out, and what is changed in texts.

The order in which filters run is fixed, and is that of `FiltersSection`'s keys.
"""

from __future__ import annotations

import difflib
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from manta.config.section import Section

RuleSet = Literal["gopher_quality", "gopher_repetition", "fineweb", "c4"]
PrivateKind = Literal["emails", "phones", "cards", "addresses", "keys"]

# Limits of the quality rules: name → number of the rule's paper. `corpus/filters/quality.py` has
# the papers, and what is counted.
QUALITY_LIMITS: dict[str, float] = {
    "gopher_min_words": 50,
    "gopher_max_words": 100_000,
    "gopher_min_mean_word": 3,
    "gopher_max_mean_word": 10,
    "gopher_max_hashes": 0.1,
    "gopher_max_ellipses": 0.1,
    "gopher_max_bullet_lines": 0.9,
    "gopher_max_ellipsis_lines": 0.3,
    "gopher_min_alphabetic_words": 0.8,
    "gopher_min_stop_words": 2,
    "gopher_max_duplicate_lines": 0.30,
    "gopher_max_duplicate_paragraphs": 0.30,
    "gopher_max_duplicate_line_characters": 0.20,
    "gopher_max_duplicate_paragraph_characters": 0.20,
    "gopher_max_top_2_grams": 0.20,
    "gopher_max_top_3_grams": 0.18,
    "gopher_max_top_4_grams": 0.16,
    "gopher_max_duplicate_5_grams": 0.15,
    "gopher_max_duplicate_6_grams": 0.14,
    "gopher_max_duplicate_7_grams": 0.13,
    "gopher_max_duplicate_8_grams": 0.12,
    "gopher_max_duplicate_9_grams": 0.11,
    "gopher_max_duplicate_10_grams": 0.10,
    "fineweb_min_punctuated_lines": 0.12,
    "fineweb_max_duplicate_line_characters": 0.1,
    "fineweb_max_short_lines": 0.67,
    "c4_min_line_words": 3,
    "c4_min_sentences": 5,
}
# The stop words of Gopher's rule.
STOP_WORDS = ["the", "be", "to", "of", "and", "that", "have", "with"]


class FilterSection(Section):
    """What the sections of all filters have."""

    enabled: bool = Field(
        default=True, description="whether the filter runs; true if its section is given"
    )

    @model_validator(mode="before")
    @classmethod
    def _or_a_switch(cls, value: Any) -> Any:
        """Take `true` for a section without keys, and `false` for one that is off."""
        return {"enabled": value} if isinstance(value, bool) else value


class BoilerplateSection(FilterSection):
    """Lines that many documents of a source have, such as menus and notices."""

    documents: int = Field(
        default=20, ge=2, description="documents of a source from which on a line is boilerplate"
    )
    share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the source's documents that must have the line as well",
    )
    characters: int = Field(
        default=10, ge=1, description="shorter lines stay, such as brackets in code"
    )


class RepairSection(FilterSection):
    """Texts whose encoding was mistaken, and Unicode's several ways to write a character."""

    mojibake: bool = Field(
        default=True,
        description="repair lines that were decoded by a wrong encoding, such as â€™ for ’; needs "
        "ftfy, the extra `repair`",
    )
    unicode: Literal["NFC", "NFKC"] | None = Field(
        default="NFC", description="normal form of Unicode to bring texts into; null leaves them"
    )


class PrivacySection(FilterSection):
    """Private data that is replaced by placeholders, such as <EMAIL>, and counted."""

    find: list[PrivateKind] = Field(
        default=list(get_args(PrivateKind)),
        min_length=1,
        description="what to replace: e-mail addresses, phone numbers, numbers of payment cards, "
        "public IP addresses, keys and tokens of programs",
    )


class WordListSection(FilterSection):
    """A file of words, phrases or patterns, by which documents are dropped or counted."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$", description="name of the list in counts"
    )
    path: str = Field(
        description="text file with a word, a phrase or (after `re:`) a regular expression a line; "
        "lines that begin with # are comments"
    )
    action: Literal["drop", "count"] = Field(
        default="drop", description="what becomes of documents that match: drop, or only count"
    )
    at_most: int = Field(default=0, ge=0, description="matches that a document may have")


class QualitySection(FilterSection):
    """Rules of published corpora on what a good document looks like."""

    rules: list[RuleSet] = Field(
        default=["gopher_quality", "gopher_repetition", "fineweb"],
        min_length=1,
        description="sets of rules, run in this order; c4 also removes lines",
    )
    limits: dict[str, float | None] = Field(
        default_factory=dict,
        description="other limits than those of the papers, such as gopher_min_words: 20; null "
        "turns a rule off",
    )
    stop_words: list[str] = Field(
        default=STOP_WORDS, description="words of which gopher_quality wants two, in lower case"
    )

    @field_validator("limits")
    @classmethod
    def _known(cls, limits: dict[str, float | None]) -> dict[str, float | None]:
        for name in limits:
            if name not in QUALITY_LIMITS:
                close = difflib.get_close_matches(name, QUALITY_LIMITS, 1, 0.5)
                hint = (
                    f"did you mean '{close[0]}'?" if close else f"take {', '.join(QUALITY_LIMITS)}"
                )
                raise ValueError(f"there is no limit '{name}': {hint}")
        return limits


class OwnFilterSection(FilterSection):
    """A function in a Python file of the user's."""

    function: str = Field(
        description="file and function, such as ./mine.py:keep; called with a text, it returns "
        "True to keep it, False or a reason (Drop) to drop it, or the text to go on with",
    )

    @field_validator("function")
    @classmethod
    def _in_a_file(cls, function: str) -> str:
        file, _, name = function.rpartition(":")
        if not file.endswith(".py") or not name.isidentifier():
            raise ValueError("write a Python file and a function in it, such as ./mine.py:keep")
        return function


class NearDuplicatesSection(FilterSection):
    """Documents that are nearly the same as another one of any source."""

    threshold: float = Field(
        default=0.8,
        ge=0.5,
        le=1,
        description="Jaccard similarity of the sets of two texts' n-grams from which on one goes",
    )
    words: int = Field(default=5, ge=1, le=20, description="words of an n-gram")


class EvaluationSection(Section):
    """Files with the texts of an evaluation."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="name of the evaluation; documents that overlap with it are counted under it",
    )
    format: Literal["text", "jsonl", "parquet", "arrow"] = Field(
        default="jsonl", description="format of the files"
    )
    paths: list[str] = Field(min_length=1, description="files, folders, globs or URLs")
    columns: list[str] = Field(
        default=["text"],
        min_length=1,
        description="columns or keys that hold texts, such as [question, answer]",
    )


class ContaminationSection(FilterSection):
    """Training documents that share text with what a model is tested on."""

    evaluations: list[EvaluationSection] = Field(
        default_factory=list, description="files with evaluations that no training text may quote"
    )
    test_split: bool = Field(
        default=True, description="whether the corpus's own test split counts as well"
    )
    words: int = Field(
        default=13, ge=3, le=100, description="words in a row that a document must not share"
    )

    @model_validator(mode="after")
    def _something(self) -> ContaminationSection:
        if not self.evaluations and not self.test_split:
            raise ValueError("give 'evaluations', or set test_split: true")
        names = [one.name for one in self.evaluations]
        if len(set(names)) < len(names):
            raise ValueError("two evaluations have one name; give each its own")
        return self


class CapSection(FilterSection):
    """At most so many documents of a source, or with one value of a column."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$", description="name of the cap in counts"
    )
    sources: list[str] = Field(
        default_factory=list,
        description="sources whose documents are counted; all if left out",
    )
    column: str | None = Field(
        default=None,
        description="column or key with a text, such as the site: the cap is for each of its "
        "values; if left out, for each source",
    )
    documents: int = Field(ge=1, description="most documents of a source or value")


class FiltersSection(Section):
    """The filters of a corpus, in the order in which they run; those left out don't run."""

    boilerplate: BoilerplateSection = BoilerplateSection(enabled=False)
    repair: RepairSection = RepairSection(enabled=False)
    privacy: PrivacySection = PrivacySection(enabled=False)
    lists: list[WordListSection] = Field(
        default_factory=list, description="drop or count documents with words of a list"
    )
    quality: QualitySection = QualitySection(enabled=False)
    own: list[OwnFilterSection] = Field(
        default_factory=list, description="functions of your own that keep, drop or change texts"
    )
    near_duplicates: NearDuplicatesSection = NearDuplicatesSection(enabled=False)
    decontaminate: ContaminationSection = ContaminationSection(enabled=False)
    caps: list[CapSection] = Field(
        default_factory=list, description="bound the documents of a source or of a column's value"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> FiltersSection:
        for kind in ("lists", "caps"):
            names = [one.name for one in getattr(self, kind)]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two {kind} are called '{name}'; give each its own name")
        return self

    @property
    def judging(self) -> list[FilterSection]:
        """The filters that judge documents one by one and are on, in their order."""
        found = [self.repair, self.privacy, *self.lists, self.quality, *self.own]
        return [one for one in found if one.enabled]

    @property
    def of_whole(self) -> list[str]:
        """Names of the filters that are on and say nothing of a sample."""
        first = ["boilerplate"] if self.boilerplate.enabled else []
        return [*first, *(f"caps.{one.name}" for one in self.caps if one.enabled)]

    @property
    def comparing(self) -> list[str]:
        """Names of the filters that are on and compare documents with others of the corpus."""
        found = {
            "boilerplate": self.boilerplate.enabled,
            "near_duplicates": self.near_duplicates.enabled,
            "decontaminate": self.decontaminate.enabled and self.decontaminate.test_split,
            "caps": any(one.enabled for one in self.caps),
        }
        return [name for name, is_on in found.items() if is_on]

    @property
    def is_on(self) -> bool:
        """Whether any filter runs."""
        later = [self.boilerplate, self.near_duplicates, self.decontaminate, *self.caps]
        return bool(self.judging) or any(one.enabled for one in later)

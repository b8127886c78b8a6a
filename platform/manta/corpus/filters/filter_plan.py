"""What a corpus's filters need, with the files that the config names, read before Ray is started.

A plan is plain JSON values. Its digest stands for all that determines the filters' result, and
what `recorded` says of it is part of the corpus's manifest, and so of its fingerprint: settings and
versions of the filters that are on, and checksums in place of paths.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manta.config.errors import CorpusError
from manta.config.filters import (
    FilterSection,
    FiltersSection,
    OwnFilterSection,
    PrivacySection,
    QualitySection,
    RepairSection,
    WordListSection,
)
from manta.config.own_code import OwnCode, read_own
from manta.corpus.filters.evaluations import EvaluationNgrams, read_evaluations
from manta.corpus.filters.filter_chain import chain_of
from manta.corpus.filters.repair import ftfy_version

# What a filter does changes with its version: raise it when the same text gets another verdict.
VERSIONS = {
    "boilerplate": 1,
    "repair": 1,
    "privacy": 1,
    "lists": 1,
    "quality": 1,
    "own": 1,
    "near_duplicates": 1,
    "decontaminate": 1,
    "caps": 1,
}
KINDS: dict[type[FilterSection], str] = {
    RepairSection: "repair",
    PrivacySection: "privacy",
    WordListSection: "lists",
    QualitySection: "quality",
    OwnFilterSection: "own",
}


@dataclass(frozen=True)
class FilterPlan:
    """The filters of a corpus that are on.

    Attributes:
        section: the config's section.
        has_records: whether documents are records, as JSON.
        evaluations: n-grams that no training document may have.
        chain: plan of the filters that judge documents one by one, for `chain_of`.
        recorded: names of the filters that are on → settings and versions, for the manifest.
    """

    section: FiltersSection
    has_records: bool = False
    evaluations: list[EvaluationNgrams] = field(default_factory=list)
    chain: list[dict[str, Any]] = field(default_factory=list)
    recorded: dict[str, Any] = field(default_factory=dict)

    @property
    def is_on(self) -> bool:
        """Whether any filter runs."""
        return self.section.is_on

    @property
    def versions(self) -> str:
        """The version of the library that filters use; empty if they use none."""
        repair = self.section.repair
        return f" ftfy {ftfy_version()}" if repair.enabled and repair.mojibake else ""

    @property
    def content(self) -> bytes:
        """The chain's plan as the bytes of a file."""
        return json.dumps({"has_records": self.has_records, "chain": self.chain}).encode()


def plan_of(section: FiltersSection, has_records: bool) -> FilterPlan:
    """Read what the filters need, and try to make them.

    Args:
        section: the config's section.
        has_records: whether documents are records, as JSON.

    Raises:
        CorpusError, ConfigError: if a file can't be read or used, or a package is missing.
    """
    chain, recorded = [], dict[str, Any]()
    for one in section.judging:
        kind = KINDS[type(one)]
        entry: dict[str, Any] = {"kind": kind, "section": one.model_dump(mode="json")}
        noted = _noted(kind, one)
        if isinstance(one, WordListSection):
            entry["entries"] = _lines(one)
            noted["sha256"] = digest_of_lines(entry["entries"])
        elif isinstance(one, OwnFilterSection):
            code = _code(one)
            entry["code"] = vars(code)
            noted["function"] = f"{code.file}:{code.name}"
            noted["sha256"] = hashlib.sha256(code.text.encode()).hexdigest()
        chain.append(entry)
        if kind in ("lists", "own"):
            recorded.setdefault(kind, []).append(noted)
        else:
            recorded[kind] = noted
    _names_differ(section)
    chain_of(chain, has_records)
    evaluations = list[EvaluationNgrams]()
    if section.boilerplate.enabled:
        recorded["boilerplate"] = _noted("boilerplate", section.boilerplate)
    if section.near_duplicates.enabled:
        recorded["near_duplicates"] = _noted("near_duplicates", section.near_duplicates)
    if section.decontaminate.enabled:
        evaluations = read_evaluations(section.decontaminate)
        recorded["decontaminate"] = _noted("decontaminate", section.decontaminate) | {
            "evaluations": {one.name: one.sha256 for one in evaluations}
        }
    if caps := [_noted("caps", one) for one in section.caps if one.enabled]:
        recorded["caps"] = caps
    return FilterPlan(section, has_records, evaluations, chain, recorded)


def _noted(kind: str, section: FilterSection) -> dict[str, Any]:
    """Version and settings of a filter that is on, without the places of its files."""
    kept = section.model_dump(mode="json", exclude={"enabled", "path", "function", "evaluations"})
    return {"version": VERSIONS[kind], **kept}


def _names_differ(section: FiltersSection) -> None:
    names = [one.function.rpartition(":")[2] for one in section.own if one.enabled]
    for name in names:
        if names.count(name) > 1:
            raise CorpusError(
                f"filters.own: two functions are called '{name}', by which they are counted: "
                "give each its own name"
            )


def _code(section: OwnFilterSection) -> OwnCode:
    key, function = "filters.own.function", section.function
    file, text = read_own(function, f"{key} = '{function}'", Path(), {})
    return OwnCode(key, file, function.rpartition(":")[2], text)


def _lines(section: WordListSection) -> list[str]:
    path = Path(section.path).expanduser()
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it isn't UTF-8 text"
        raise CorpusError(
            f"filters.lists: '{section.name}': {path} can't be read: {why}; give the path of a "
            "text file with a word a line"
        ) from None


def digest_of_lines(lines: list[str]) -> str:
    """The SHA-256 of lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

"""What the second pass over labelled texts found, of all units together."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import Any

from manta.config.corpus import LabelledSection
from manta.config.errors import CorpusError
from manta.corpus.assemble import Arrange
from manta.corpus.documents import SPLITS
from manta.corpus.manifest import LABELLED, Split
from manta.corpus.record_totals import RecordTotals, rows_by
from manta.corpus.scan import Located
from manta.corpus.tokenizer import CorpusTokenizer
from manta.sample.labelled import Labelled, packed_texts

# With more of them, a column of labels is most likely one of something else.
MOST_CLASSES = 10_000


class LabelTotals(RecordTotals):
    """Those of labelled texts.

    Attributes:
        section: the config's section on labelled texts.
        classes: names of all classes, in the order of their numbers; set before any unit is added.
    """

    def __init__(self, section: LabelledSection):
        super().__init__("texts")
        self.section = section
        self.classes: list[str] = []
        self._labels: dict[tuple[Split, int], Counter[str]] = defaultdict(Counter)

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of the format of samples."""
        classes = self.classes if self.section.labels == "classes" else None
        return {"sample": LABELLED, "row_length": self.section.length, "classes": classes}

    def add(self, record: dict[str, Any], refused: list[Located]) -> None:
        """Take a unit's record, and where those are that it refused."""
        super().add(record, refused)
        for split, found in record["labels"].items():
            self._labels[split, record["source"]].update(found)

    def labels_of(self, split: Split, source: int) -> dict[str, int] | None:
        """How many texts of each class a source has in a split; None where labels are numbers."""
        if self.section.labels == "numbers":
            return None
        found = self._labels[split, source]
        return {name: found[name] for name in self.classes if found[name]}

    def check(self, shown: int) -> None:
        """Raise CorpusError if texts are lost of which nothing was said, or nothing can be learned.

        Args:
            shown: most texts to name.
        """
        if self.too_long and self.section.too_long == "stop":
            long = [str(one) for one in self.refused if "labelled.length" in one.reason][:shown]
            kept = self._counts["texts"]
            said = (
                f"{self.too_long:,} of {self.too_long + kept:,} texts are longer than "
                f"labelled.length = {self.section.length:,}: set labelled.too_long to drop (leave "
                "them out) or cut (keep their first tokens), or labelled.length to more"
            )
            raise CorpusError("\n".join([*long, said]))
        if not self._counts["texts"]:
            reasons = "\n".join(str(one) for one in self.refused[:shown])
            raise CorpusError(f"{reasons}\nno text is left to train on".strip())
        if self.section.labels == "classes":
            self._check_classes()

    def _check_classes(self) -> None:
        of_split = {
            split: sum((found for (s, _), found in self._labels.items() if s == split), Counter())
            for split in SPLITS
        }
        for name in self.classes:
            if of_split["train"][name]:
                continue
            there = [f"{of_split[s][name]} in {s}" for s in SPLITS if of_split[s][name]]
            raise CorpusError(
                f"the class '{name}' has no text to train on, only "
                f"{' and '.join(there) or 'texts that are left out'}: add texts of it, leave the "
                "class out, or give split.train a larger share"
            )
        if len(self.classes) < 2:
            raise CorpusError(
                f"all texts are of the class '{self.classes[0]}': there is nothing to tell apart; "
                "is labelled.label the right column?"
            )
        if len(self.classes) > MOST_CLASSES:
            raise CorpusError(
                f"the texts have {len(self.classes):,} classes, more than {MOST_CLASSES:,}: is "
                "labelled.label the right column? To have numbers predicted, set "
                "labelled.labels: numbers"
            )


def rows_of_texts(section: LabelledSection, tokenizer: CorpusTokenizer) -> Arrange:
    """How the labelled texts of a shard become its rows."""
    numbers = section.labels == "numbers"
    form = Labelled(tokenizer.dtype, section.length, tokenizer.padding, numbers)
    return rows_by(partial(packed_texts, form=form, alone=not section.packing), section.length)

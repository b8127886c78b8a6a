"""Filters on records: conversations, pairs and labelled texts, which are JSON objects.

What is repaired or replaced are all texts of a record but names, roles and labels. What is judged
is what people and the model say, without the instructions of the system, which are the same in
many conversations: the contents of messages, or the text that has a label.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from manta.corpus.filters.filter_verdict import Drop, Filter, Keep, Verdict
from manta.corpus.filters.own_filter import OwnFilter, OwnFilterError
from manta.corpus.filters.privacy import Privacy
from manta.corpus.filters.repair import Repair

# Keys whose values are part of a record's form.
FORM = {"role", "type", "name", "id", "tool_call_id", "label", "tools"}
CONVERSATIONS = ("prompt", "messages", "chosen", "rejected")


def said_in(record: str) -> str:
    """What is said in a record: its messages without the system's, or its text."""
    whole = json.loads(record)
    if isinstance(whole.get("text"), str):
        return str(whole["text"])
    return "\n\n".join(_contents(whole))


def _contents(whole: dict[str, Any]) -> Iterator[str]:
    for name in CONVERSATIONS:
        for message in whole.get(name, []):
            if message["role"] != "system" and message.get("content"):
                yield message["content"]


def changed(record: str, change: Callable[[str], str]) -> str:
    """The record with all of its texts changed by a function; the same record if none is."""
    whole = json.loads(record)
    made = _changed(whole, change)
    return record if made == whole else json.dumps(made, ensure_ascii=False, sort_keys=True)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(one, change) for one in value]
    if isinstance(value, dict):
        return {
            name: inner if name in FORM else _changed(inner, change)
            for name, inner in value.items()
        }
    return value


class RecordFilter:
    """A filter of texts that judges records."""

    def __init__(self, inner: Filter):
        self.name = inner.name
        self.inner = inner

    def judge(self, text: str) -> Verdict:
        """The verdict on a record, given as JSON.

        Raises:
            OwnFilterError: if a user's own function fails, or gives another text.
        """
        if isinstance(self.inner, Repair | Privacy):
            return self._change(text)
        said = said_in(text)
        verdict = self.inner.judge(said)
        if isinstance(verdict, Drop):
            return verdict
        if isinstance(self.inner, OwnFilter) and verdict.text != said:
            raise OwnFilterError(
                f"{self.name} returned a text, but of a record it can only say whether to keep it: "
                "return True, False or Drop(reason)"
            )
        return Keep(text, verdict.found)

    def _change(self, text: str) -> Verdict:
        found = Counter[str]()

        def change(part: str) -> str:
            verdict = self.inner.judge(part)
            assert isinstance(verdict, Keep)  # these filters never drop
            found.update(verdict.found)
            return verdict.text

        return Keep(changed(text, change), dict(found))

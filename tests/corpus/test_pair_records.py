"""Records of pairs: every shape is the same pair, and what is none is told why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.corpus.conversations import UnusableRecord
from manta.corpus.pair_records import pair_text


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be short."}
GPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}]
SAME = [
    {"prompt": "q", "chosen": "good", "rejected": "bad"},
    {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
    {"prompt": "q", "chosen": assistant("good"), "rejected": {"from": "gpt", "value": "bad"}},
    {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
    {"chosen": GPT, "rejected": [*GPT[:1], {"from": "gpt", "value": "bad"}]},
    {
        "prompt": "q",  # beside whole conversations, as some data sets have it
        "chosen": [user("q"), assistant("good")],
        "rejected": [user("q"), assistant("bad")],
        "score": 3,
    },
]


def pair(record: dict[str, Any], **columns: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pair_text(record, columns))
    return found


@pytest.mark.parametrize("record", SAME)
def test_every_shape_is_the_same_pair(record: dict[str, Any]) -> None:
    assert pair(record) == {
        "prompt": [user("q")],
        "chosen": [assistant("good")],
        "rejected": [assistant("bad")],
    }


def test_columns_have_the_names_that_the_source_gives_them() -> None:
    record = {"question": "q", "system": "Be short.", "yes": "good", "no": "bad", "tools": [{}]}
    found = pair(record, prompt="question", chosen="yes", rejected="no")
    assert found["prompt"] == [SYSTEM, user("q")]
    assert (found["chosen"], found["tools"]) == ([assistant("good")], [{}])


turns = st.lists(st.sampled_from([user("a"), user("b"), assistant("a"), assistant("b")]))


@given(turns, turns, turns)
def test_the_prompt_is_all_that_both_begin_with(
    lead: list[dict[str, Any]], one: list[dict[str, Any]], other: list[dict[str, Any]]
) -> None:
    chosen, rejected = [user("x"), *lead, *one], [user("x"), *lead, *other]
    if chosen == rejected:
        with pytest.raises(UnusableRecord, match="are the same"):
            pair({"chosen": chosen, "rejected": rejected})
        return
    found = pair({"chosen": chosen, "rejected": rejected})
    assert found["prompt"] + found["chosen"] == chosen
    assert found["prompt"] + found["rejected"] == rejected
    assert len(found["prompt"]) > len(lead)
    assert found["chosen"][:1] != found["rejected"][:1]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "q", "chosen": "a"}, "no pair: no 'rejected', only 'prompt', 'chosen' here"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "no pair: no 'rejected'"),
        ({"chosen": "a", "rejected": "b"}, "have no prompt in common, and none is given"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "'chosen' and 'rejected' are the same"),
        ({"prompt": "q", "chosen": ["a"], "rejected": "b"}, r"chosen\[0\] is not an object"),
        ({"prompt": "q", "chosen": 3, "rejected": "b"}, "'chosen' is not a list"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "'prompt' is not a list"),
    ],
)
def test_what_is_no_pair_is_told_why(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRecord, match=reason):
        pair(record)

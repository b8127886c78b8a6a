"""Each filter by itself: its rules at their limits, and what it leaves alone."""

from __future__ import annotations

import re

import numpy as np
import pytest
from good_text import GOOD
from hypothesis import given
from hypothesis import strategies as st

from manta.config.errors import CorpusError
from manta.config.filters import (
    QUALITY_LIMITS,
    PrivacySection,
    QualitySection,
    RepairSection,
    WordListSection,
)
from manta.config.own_code import OwnCode
from manta.corpus.filters.filter_verdict import Drop, Keep
from manta.corpus.filters.own_filter import OwnFilter, OwnFilterError
from manta.corpus.filters.privacy import Privacy, luhn
from manta.corpus.filters.quality import Quality
from manta.corpus.filters.repair import Repair
from manta.corpus.filters.repetition import duplicate_share, top_share
from manta.corpus.filters.word_lists import WordList, read_entries
from manta.corpus.filters.words import PIECE, ngrams, words_of

# ------------------------------------------------------------------------------------- words


@given(st.text(alphabet="aZ9_ ,.\n-é—’“漢字かな。한국ªº¿", max_size=60))
def test_words_are_runs_of_letters_and_single_ideographs(text):
    content = text.encode()
    found = words_of(content)

    shown = [
        content[a:b].decode()
        for a, b in zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    ]
    assert shown == re.findall(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+", text)
    by_word = dict(zip(shown, found.hashes.tolist(), strict=True))
    assert [by_word[word] for word in shown] == found.hashes.tolist()
    assert len(set(by_word.values())) == len(by_word)


def test_a_text_of_many_pieces_has_the_words_of_its_parts():
    text = ("alpha beta " * (PIECE // 8) + "gamma\n").encode()

    found = words_of(text)

    assert len(found.hashes) == 2 * (PIECE // 8) + 1
    assert len(np.unique(found.hashes)) == 3
    assert text[found.starts[-1] : found.ends[-1]] == b"gamma"
    assert len(words_of(b"x" * (3 * PIECE)).hashes) >= 1


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 5))
def test_ngrams_are_equal_where_their_words_are(words, length):
    hashes = words_of(" ".join(words).encode()).hashes

    found = ngrams(hashes, length).tolist()

    length = min(length, len(words))
    runs = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)] if words else []
    assert len(found) == len(runs)
    assert len(set(zip(found, runs, strict=True))) == len(set(found)) == len(set(runs))


# ----------------------------------------------------------------------------------- quality


def judged(text: str, **section) -> Keep | Drop:
    return Quality(QualitySection.model_validate(section)).judge(text)


def test_a_good_document_stays_as_it_is():
    assert judged(GOOD) == Keep(GOOD)


BAD = {
    "gopher_min_words": "The few words that there have to be.",
    "gopher_min_mean_word": GOOD + " a b c d" * 60,
    "gopher_max_mean_word": GOOD + " incomprehensibilities" * 60,
    "gopher_max_hashes": GOOD.replace(" ", " #", 30),
    "gopher_max_ellipses": GOOD.replace(",", "...").replace("the ", "the… "),
    "gopher_max_bullet_lines": "\n".join(f"- {line}" for line in GOOD.split("\n")),
    "gopher_max_ellipsis_lines": "".join(f"{line}...\n" for line in GOOD.split("\n")[:2]) + GOOD,
    "gopher_min_alphabetic_words": GOOD + " 10203 40506" * 10,
    "gopher_min_stop_words": re.sub(r"\b(the|to|of|and|that|have|with|The)\b", "ett", GOOD),
    "gopher_max_duplicate_lines": GOOD + ("\n" + GOOD.split("\n")[0]) * 3,
    "gopher_max_duplicate_line_characters": GOOD + ("\n" + GOOD.split("\n")[0] * 2) * 2,
    "gopher_max_top_2_grams": GOOD + " again and again," * 12,
    "fineweb_min_punctuated_lines": GOOD.replace(".", ""),
    "fineweb_max_short_lines": "Home.\nNews.\nShop.\nHelp.\nMail.\nMore.\nBlog.\nTeam.\nJobs.\n"
    + GOOD,
    "c4_min_sentences": GOOD,
    "c4_lorem_ipsum": GOOD + " Lorem ipsum dolor.",
    "c4_curly_bracket": GOOD + " {",
}


@pytest.mark.parametrize("reason", BAD)
def test_a_document_is_dropped_by_the_rule_that_it_breaks(reason):
    rules = {"rules": ["c4"]} if reason.startswith("c4") else {}

    found = judged(BAD[reason], **rules)

    assert isinstance(found, Drop)
    assert found.reason == reason
    if reason in QUALITY_LIMITS:
        limit = QUALITY_LIMITS[reason]
        below = "_min_" in reason
        assert found.score <= limit if below else found.score >= limit
        other = judged(BAD[reason], limits={reason: None}, **rules)
        assert getattr(other, "reason", "") != reason


def test_c4_removes_lines_and_markers():
    page = GOOD.replace("mill", "mill[1]") + "\nMenu\nPlease enable Javascript to go on here.\n"

    found = judged(page, rules=["c4"], limits={"c4_min_sentences": 4})

    assert found.text == GOOD
    assert found.found == {
        "citation_markers": 1,
        "lines_without_punctuation": 1,
        "lines_on_javascript": 1,
    }


@given(st.lists(st.sampled_from(["ab", "c", "def"]), max_size=14))
def test_shares_of_repeated_ngrams_are_those_that_counting_finds(words):
    text = " ".join(words)
    places = words_of(text.encode())
    for length in (2, 3):
        runs = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
        most = max(map(runs.count, runs), default=0)
        longest = max((len(" ".join(run)) for run in runs if runs.count(run) == most), default=0)
        expected = min(1, most * longest / len(text)) if most > 1 else 0
        assert top_share(places, length, len(text)) == pytest.approx(expected)
        covered = set()
        for i, run in enumerate(runs):
            if run in runs[:i]:
                covered |= set(range(places.starts[i], places.ends[i + length - 1]))
        expected = len(covered) / max(len(text), 1)
        assert duplicate_share(places, length, len(text)) == pytest.approx(expected)


# ----------------------------------------------------------------------------------- privacy

PRIVACY = Privacy(PrivacySection())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail jane.doe+x@example.co.uk now", "mail <EMAIL> now"),
        ("(415) 555-2671, +49 30 901820, 1-800-555-0199", "<PHONE>, <PHONE>, <PHONE>"),
        ("card 4111 1111 1111 1111 or 5500-0000-0000-0004", "card <CARD> or <CARD>"),
        ("from 8.8.8.8 and 2001:4860:4860::8888", "from <IP_ADDRESS> and <IP_ADDRESS>"),
        ("AKIAIOSFODNN7EXAMPLE", "<KEY>"),
        ("api_key = 'ab12cd34ef56gh78ij90'", "api_key = '<KEY>'"),
        ("token ghp_" + "a1B2" * 9, "token <KEY>"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow\n" * 9 + "-----END RSA PRIVATE KEY-----",
            "<KEY>",
        ),
    ],
)
def test_private_data_becomes_a_placeholder(text, expected):
    found = PRIVACY.judge(text)

    assert found.text == expected
    assert sum(found.found.values()) == expected.count("<")
    assert PRIVACY.judge(found.text) == Keep(expected)


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112, isbn 978-3-16-148410-0, 2000000000000",
        "127.0.0.1, 192.168.1.7, version 1.2.3.4.5, 999.1.1.1, 12:30:45",
        "pi is 3.14159265358979323846, on 2021-03-04 at 10:20, 555-2671",
        "password: your_password_goes_here, the key to the token of secrets",
        "user@localhost and @handle and a @ b",
        "sk-learn-contrib-with-a-long-name-0, asiapacificconferences, hf_short",
    ],
)
def test_what_only_looks_private_stays(text):
    assert PRIVACY.judge(text) == Keep(text)


def test_only_what_is_asked_for_is_replaced():
    found = Privacy(PrivacySection(find=["emails"])).judge("a@b.org 8.8.8.8")

    assert found == Keep("<EMAIL> 8.8.8.8", {"emails": 1})


@given(st.text(alphabet="0123456789", min_size=12, max_size=18))
def test_one_digit_in_ten_is_the_check_digit(digits):
    assert sum(luhn(digits + str(last)) for last in range(10)) == 1


@given(st.text(alphabet="@.:+-() 0158aAbx=k_y\n", max_size=60))
def test_a_text_without_private_data_has_none_to_replace(text):
    once = PRIVACY.judge(text)

    assert PRIVACY.judge(once.text).text == once.text


# ------------------------------------------------------------------------------------ repair


def test_mojibake_is_repaired_line_by_line_and_unicode_normalised():
    repair = Repair(RepairSection())

    found = repair.judge("It’s fine\nItâ€™s broken\nschÃ¶n\ncafe\u0301 ok\nplain")

    assert found.text == "It’s fine\nIt’s broken\nschön\ncafé ok\nplain"
    assert found.found == {"mojibake": 2, "normalized": 1}
    assert repair.judge(found.text) == Keep(found.text)


def test_each_part_of_the_repair_can_be_off():
    text = "schÃ¶n cafe\u0301"

    assert Repair(RepairSection(mojibake=False)).judge(text).text == "schÃ¶n café"
    assert Repair(RepairSection(unicode=None)).judge(text).text == "schön cafe\u0301"


# ------------------------------------------------------------------------------------- lists


def listed(*lines: str, **section) -> WordList:
    whole = {"name": "bad", "path": "bad.txt", **section}
    return WordList(WordListSection.model_validate(whole), read_entries(lines, "bad.txt"))


def test_words_phrases_and_patterns_match_whole_words_in_any_case():
    found = listed(
        "# a comment", "", "bad", "very bad idea", "c++", "re:colou?r", "漢", action="count"
    )

    text = "BAD badly. A Very bad, idea! In C++ not c+++; colors of 漢字."
    assert found.judge(text) == Keep(text, {"matches": 7})


def test_more_matches_than_allowed_drop_a_document():
    assert listed("bad", at_most=1).judge("bad") == Keep("bad", {"matches": 1})
    assert listed("bad", at_most=1).judge("bad, bad") == Drop("matches", 2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["ok", "re:(unclosed"], "bad.txt:2: 're:(unclosed' is no regular expression"),
        (["re:x*"], "matches the empty text"),
        ([r"re:(a)\1"], "refers to a group"),
        (["# nothing"], "the list has no entry"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(lines, message):
    with pytest.raises(CorpusError, match=re.escape(message)):
        read_entries(lines, "bad.txt")


# --------------------------------------------------------------------------------------- own


def own(body: str) -> OwnFilter:
    text = f"from manta.corpus.filters import Drop\n\ndef keep(text):\n    {body}\n"
    return OwnFilter(OwnCode("filters.own.function", "mine.py", "keep", text))


def test_an_own_function_keeps_drops_or_changes():
    assert own("return True").judge("a") == Keep("a")
    assert own("return False").judge("a") == Drop("dropped")
    assert own("return Drop('short', len(text))").judge("a") == Drop("short", 1)
    assert own("return text.upper()").judge("a") == Keep("A", {"changed": 1})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "mine.py:keep failed: mine.py:4: ZeroDivisionError: division by zero"),
        ("pass", "mine.py:keep returned NoneType: return True to keep the document"),
        ("return Drop(3)", "mine.py:keep returned Drop(3): write a reason of a few words"),
        ("return Drop('a', 'b')", "a Drop whose score is no number but str"),
        ("return '\\ud800'", "mine.py:keep returned a text that is not valid Unicode"),
    ],
)
def test_what_an_own_function_does_wrong_is_told_with_its_line(body, message):
    with pytest.raises(OwnFilterError, match=re.escape(message)):
        own(body).judge("a")

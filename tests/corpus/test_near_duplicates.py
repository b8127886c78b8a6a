"""Near-duplicates and overlap with evaluations: the laws of their parts, and whole corpora."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killed_prepare import killed_at, renames_of

from manta.config.errors import CorpusError
from manta.corpus.documents import SPLITS
from manta.corpus.filters.candidates import jaccard, ngram_set
from manta.corpus.filters.caps import over_cap
from manta.corpus.filters.contamination import OverlapIndex
from manta.corpus.filters.dropped import DROPPED
from manta.corpus.filters.dry_run import dry_run
from manta.corpus.filters.evaluations import ngrams_in
from manta.corpus.filters.minhash import FOUND, banding, sketches
from manta.corpus.filters.near_duplicates import (
    BEFORE,
    candidate_pairs,
    connected,
    left_out,
)
from manta.corpus.inputs import open_inputs
from manta.corpus.prepare import prepare

WORDS = [f"word{number}" for number in range(5000)]


def text_of(seed: int, words: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def edited(text: str, edits: int, seed: int = 0) -> str:
    """The text with some words replaced by one that occurs nowhere else."""
    words = text.split()
    for place in random.Random(seed).sample(range(len(words)), edits):
        words[place] = f"edit{seed}"
    return " ".join(words)


def true_jaccard(one: str, other: str, length: int = 5) -> float:
    """The similarity of two texts by Python's sets."""
    sets = [
        set(zip(*(text.lower().split()[start:] for start in range(length)), strict=False))
        for text in (one, other)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


# ------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
def test_a_pair_at_the_threshold_is_a_candidate_almost_surely(threshold):
    bands, rows = banding(threshold)

    assert 1 - (1 - threshold**rows) ** bands >= FOUND
    assert bands * rows <= 128


def test_bands_agree_as_often_as_the_similarity_says():
    """For each hash function, which is what a band of one row is."""
    functions = banding(0.8)._replace(bands=126, rows=1)
    texts = [text_of(seed) for seed in range(60)]
    others = [edited(text, seed % 12, seed) for seed, text in enumerate(texts)]

    agreed = (sketches(texts, 5, functions) == sketches(others, 5, functions)).mean(axis=0)

    true = np.array([true_jaccard(*pair) for pair in zip(texts, others, strict=True)])
    assert np.abs(agreed - true).mean() < 0.05
    assert abs((agreed - true).mean()) < 0.02


def test_sketches_are_of_the_document_and_not_of_its_batch():
    texts = [text_of(seed, 40 + seed) for seed in range(50)] + ["", "one"]

    whole = sketches(texts, 5, banding(0.8))

    alone = np.concatenate([sketches([text], 5, banding(0.8)) for text in texts], axis=1)
    assert (whole == alone).all()


@given(st.lists(st.integers(0, 9), max_size=30), st.lists(st.integers(0, 9), max_size=30))
def test_the_similarity_is_that_of_the_sets(one, other):
    texts = [" ".join(map(str, some)) for some in (one, other)]
    expected = len(set(one) & set(other)) / max(len(set(one) | set(other)), 1)

    assert jaccard(*(ngram_set(text, 1) for text in texts)) == pytest.approx(expected)


@given(
    st.lists(
        st.lists(st.integers(0, 3), min_size=6, max_size=6),
        max_size=3,
    )
)
def test_documents_with_an_equal_band_are_a_pair_once(bands):
    documents = np.array([2, 3, 5, 8, 13, 21])
    expected = {
        (int(documents[i]), int(documents[j]))
        for band in bands
        for i in range(6)
        for j in range(i + 1, 6)
        if band[i] == band[j]
    }

    found = candidate_pairs(iter(np.array(bands, np.uint64).reshape(-1, 6)), documents)

    assert sorted(map(tuple, found.tolist())) == sorted(expected)


def test_a_large_bucket_is_not_compared_all_with_all():
    count = 1000

    found = candidate_pairs(iter([np.zeros(count, np.uint64)]), np.arange(count))

    assert len(found) < (BEFORE + 1) * count
    assert set(range(1, count)) == set(found[found[:, 0] == 0, 1].tolist())


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=14))
def test_components_are_those_that_merging_finds(pairs):
    parent = list(range(12))
    for one, other in pairs:
        low, high = sorted((parent[one], parent[other]))
        parent = [low if label == high else label for label in parent]

    assert connected(np.array(pairs, np.int64).reshape(-1, 2), 12).tolist() == parent


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=10),
    st.lists(st.integers(0, 2), min_size=10, max_size=10),
)
def test_one_of_a_group_stays_that_of_the_test_split_first(pairs, splits):
    pairs = np.array([sorted(pair) for pair in pairs if pair[0] != pair[1]], np.int64)
    pairs = pairs.reshape(-1, 2)

    lost, kept = left_out(pairs, np.array(splits, np.int8))

    groups = connected(pairs, 10)
    assert lost.tolist() == sorted(set(lost.tolist()))
    for group in set(groups.tolist()):
        members = np.flatnonzero(groups == group).tolist()
        stays = min(members, key=lambda one: (-splits[one], one))
        assert [one for one in lost.tolist() if one in members] == [
            one for one in members if one != stays
        ]
        assert {int(kept[lost.tolist().index(one)]) for one in members if one != stays} <= {stays}


def test_the_first_overlap_is_found_whatever_the_case_and_punctuation():
    ngrams, count, short = ngrams_in(iter(["One two, three four five.", "too short"]), 5)
    index = OverlapIndex(ngrams, np.zeros(len(ngrams), np.uint16))

    found = index.overlap("Zero ONE  two—three “four” five six", 5)

    assert (count, short) == (2, 1)
    assert found == (0, round(1 / 3, 4), "zero one  two—three “four” five six")
    assert index.overlap("one two three four six", 5) is None
    assert index.overlap("too short", 5) is None


# ----------------------------------------------------------------------------------- corpora

NEAR = {"near_duplicates": {}}


@pytest.mark.usefixtures("inline")
def test_no_two_documents_of_a_corpus_are_nearly_the_same(make, jsonl, documents, tmp_path):
    first = [text_of(seed) for seed in range(60)]
    second = [edited(text, seed % 8, 1 + seed) for seed, text in enumerate(first)]
    others = [text_of(seed) for seed in range(100, 130)]

    manifest = make(jsonl(first, "first"), jsonl(second + others, "second"), filters=NEAR)

    found = documents(tmp_path / "out")
    texts = [text for *_, text in found]
    pairs = [(one, other) for at, one in enumerate(texts) for other in texts[:at]]
    assert max(true_jaccard(*pair) for pair in pairs) < 0.8
    # All that are left out are nearly the same as one that is kept: none is lost.
    lost = (set(first) | set(second) | set(others)) - set(texts)
    assert all(max(true_jaccard(one, other) for other in texts) >= 0.8 for one in lost)
    assert set(others) < set(texts)
    (record,) = manifest.filters
    assert record.documents_in - record.documents_out == len(lost) > 10
    assert set(record.dropped) == {"of another source", "of another split"}


@pytest.mark.usefixtures("inline")
def test_what_was_dropped_is_recorded_beside_what_was_kept(make, jsonl, documents, tmp_path):
    texts = [text_of(seed) for seed in range(40)]
    copies = [edited(text, 2, 1 + seed) for seed, text in enumerate(texts)]

    make(jsonl([*texts, *copies]), filters=NEAR)

    split_of = {doc_id: split for split, _, doc_id, _ in documents(tmp_path / "out")}
    text_of_id = {doc_id: text for *_, doc_id, text in documents(tmp_path / "out")}
    rows = pq.read_table(tmp_path / "out" / DROPPED).to_pylist()
    assert len(rows) == 40
    for row in rows:
        assert row["like"] in split_of
        line = int(row["row"].removeprefix("line "))
        dropped = [*texts, *copies][line - 1]
        kept = text_of_id[row["like"]]
        assert row["score"] == pytest.approx(true_jaccard(dropped, kept), abs=1e-4)
        if row["text"] is not None:
            assert dropped.startswith(row["text"].rstrip("…"))
            assert kept.startswith(row["like_text"].rstrip("…"))
    across = [row for row in rows if row["reason"] == "of another split"]
    assert across
    assert all(split_of[row["like"]] != "train" for row in across)


@pytest.fixture
def everything(jsonl, tmp_path: Path) -> dict:
    """A config's part: sources of several units, and filters of both kinds."""
    texts = [text_of(seed) for seed in range(80)]
    near = [edited(text, 2, 1 + seed) for seed, text in enumerate(texts[:30])]
    near = [f"{one}\n Home | News | Contact" for one in near]
    near += [f"{text_of(200)} by a@b.org", f"{text_of(201)} cafe\u0301"]
    quiz = [f"Q: {' '.join(text.split()[20:40])}?" for text in texts[40:44]]
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps({"question": one}) + "\n" for one in [*quiz, "Why?"]))
    evaluation = {"name": "quiz", "paths": [str(path)], "columns": ["question"]}
    return {
        "sources": [
            jsonl(some[number::2], f"{name}{number}")
            for number in range(2)
            for name, some in (("a", texts), ("b", near))
        ],
        "filters": {
            "boilerplate": {"documents": 5},
            "repair": {},
            "privacy": {},
            "lists": [{"name": "some", "path": listed(tmp_path)}],
            "own": [{"function": own(tmp_path)}],
            "near_duplicates": {},
            "decontaminate": {"evaluations": [evaluation]},
            "caps": [{"name": "most", "sources": ["a0"], "documents": 25}],
        },
        "shard_tokens": 2000,
    }


def listed(folder: Path) -> str:
    (folder / "some.txt").write_text("word18\n")
    return f"{folder}/some.txt"


def own(folder: Path) -> str:
    (folder / "mine.py").write_text("def keep(text):\n    return 'word17 ' not in text\n")
    return f"{folder}/mine.py:keep"


@pytest.mark.usefixtures("inline")
def test_what_overlaps_with_an_evaluation_or_the_test_split_leaves_training(
    make, jsonl, documents, everything, tmp_path
):
    """Quoted anywhere, in another case; a document of the test split stays where it is."""
    sources, rest = everything["sources"], everything
    sample = make(*sources, **{k: rest[k] for k in ("shard_tokens",)}, out=str(tmp_path / "plain"))
    assert sample.filters is None
    tested = [text for split, *_, text in documents(tmp_path / "plain") if split == "test"]
    quoting = [
        f"{text_of(900 + n)} {' '.join(text.split()[30:50]).upper()}"
        for n, text in enumerate(tested)
    ]
    filters = {"decontaminate": rest["filters"]["decontaminate"]}

    manifest = make(*sources, jsonl(quoting, "quoting"), filters=filters)

    found = documents(tmp_path / "out")
    train = [text.lower() for split, *_, text in found if split == "train"]
    must_not = [
        *(json.loads(line)["question"] for line in (tmp_path / "quiz.jsonl").open()),
        *(text for split, *_, text in found if split == "test"),
    ]
    grams = set()
    for text in must_not:
        words = text.lower().replace("q: ", "q ").replace("?", "").split()
        grams |= set(zip(*(words[start:] for start in range(13)), strict=False))
    for text in train:
        words = text.split()
        assert not grams & set(zip(*(words[start:] for start in range(13)), strict=False))
    assert set(tested) <= {text for *_, text in found}
    (record,) = manifest.filters
    assert record.dropped["quiz"] >= 3
    assert record.found == {"texts of quiz too short to find": 1}
    assert record.dropped["test split"] >= len(tested) / 2
    rows = pq.read_table(tmp_path / "out" / DROPPED).to_pylist()
    assert any("Q" not in row["text"] and row["reason"] == "quiz" for row in rows)


def test_on_ray_and_in_one_process_and_after_a_kill_it_is_the_same(
    ray_local, config, everything, contents, tmp_path, request
):
    settings = config(*everything.pop("sources"), **everything)
    prepare(settings, progress=False)
    in_parallel = contents(tmp_path / "out")
    assert b"near_duplicates" in in_parallel["manifest.json"]

    request.getfixturevalue("inline")
    one = settings.model_copy(update={"out": str(tmp_path / "one")})
    prepare(one, progress=False)
    assert contents(tmp_path / "one") == in_parallel

    counted = settings.model_copy(update={"out": str(tmp_path / "counted")})
    renames = renames_of(counted)
    killed = settings.model_copy(update={"out": str(tmp_path / "killed")})
    for share in (0.35, 0.5):
        assert killed_at(killed, int(renames * share), "after") == -signal.SIGKILL
    prepare(killed, progress=False)
    assert contents(tmp_path / "killed") == in_parallel


class Interrupted(Exception):
    """Raised in place of the second pass."""


@pytest.mark.usefixtures("inline")
def test_files_of_the_filters_that_are_damaged_are_made_anew(
    config, everything, contents, monkeypatch, tmp_path
):
    """One of each kind: an interrupted attempt goes on from the others."""
    settings = config(*everything.pop("sources"), **everything)
    whole = settings.model_copy(update={"out": str(tmp_path / "whole")})
    prepare(whole, progress=False)

    def interrupted(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr("manta.corpus.prepare._Preparation.encode", interrupted)
        with pytest.raises(Interrupted):
            prepare(settings, progress=False)
    kinds = ("lines.npz", "texts.arrow", "dropped.arrow", "sketches.npy", "candidates.arrow")
    for kind in (*kinds, "near_duplicates.npz", "contamination.npz"):
        path = sorted((tmp_path / "out" / ".prepare").glob(f"*{kind}"))[-1]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        with monkeypatch.context() as patch:
            patch.setattr("manta.corpus.prepare._Preparation.encode", interrupted)
            with pytest.raises(Interrupted):
                prepare(settings, progress=False)
    prepare(settings, progress=False)

    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# -------------------------------------------------------------------------------------- caps


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 255), st.booleans()), max_size=20),
    st.integers(1, 4),
)
def test_the_lowest_hashes_of_a_group_stay(documents, most):
    groups = np.array([group for group, _, _ in documents], np.uint64)
    hashes = np.array([[first, *[0] * 15] for _, first, _ in documents], np.uint8).reshape(-1, 16)
    live = np.array([alive for _, _, alive in documents], bool)

    over = over_cap(groups, hashes, live, most).tolist()

    for group in range(4):
        members = [at for at in range(len(documents)) if live[at] and groups[at] == group]
        ranked = sorted(members, key=lambda at: (documents[at][1], at))
        assert sorted(set(members) & set(over)) == sorted(ranked[most:] if group else [])
    assert over == sorted(set(over))


@pytest.mark.usefixtures("inline")
def test_no_more_documents_of_a_column_s_value_than_its_cap(make, documents, tmp_path):
    sites = [None if seed % 13 == 0 else f"site{seed % 5}.org" for seed in range(120)]
    lines = [
        {"text": text_of(seed)} | ({"url": {"site": site}} if site else {})
        for seed, site in enumerate(sites)
    ]
    for name, half in (("a", lines[:60]), ("b", lines[60:])):
        text = "".join(json.dumps(line) + "\n" for line in half)
        (tmp_path / f"{name}.jsonl").write_text(text)
    sources = [
        {"name": name, "format": "jsonl", "paths": [f"{tmp_path}/{name}.jsonl"]} for name in "ab"
    ]
    caps = [
        {"name": "site", "column": "url.site", "documents": 12},
        {"name": "b", "sources": ["b"], "documents": 30},
    ]

    manifest = make(*sources, filters={"caps": caps})

    place = {text_of(seed): seed for seed in range(120)}
    kept = [(source, sites[place[text]]) for _, source, _, text in documents(tmp_path / "out")]
    by_site = Counter(site for _, site in kept)
    # Those without a value have no cap; the second cap takes some more.
    assert by_site[None] <= 10
    assert max(count for site, count in by_site.items() if site) <= 12
    assert Counter(source for source, _ in kept)["b"] == 30
    found = {one.name: one for one in manifest.filters}
    assert found["caps.site"].dropped == {"over the cap": 120 - 10 - 5 * 12}
    rows = pq.read_table(tmp_path / "out" / DROPPED).to_pylist()
    assert {row["filter"] for row in rows} == {"caps.site", "caps.b"}
    assert all(
        row["text"].startswith("site")
        for row in rows
        if row["filter"] == "caps.site" and row["text"]
    )
    again = make(*reversed(sources), filters={"caps": caps[:1]}, out=str(tmp_path / "again"))
    assert again.filters[0].dropped == found["caps.site"].dropped


@pytest.mark.usefixtures("inline")
def test_a_cap_by_a_column_that_is_not_there_is_refused(make, jsonl, tmp_path):
    cap = {"name": "site", "column": "sight", "documents": 3}
    with pytest.raises(CorpusError, match="no document has a text in the column 'sight'"):
        make(jsonl([text_of(1), text_of(2)]), filters={"caps": [cap]})
    pq.write_table(pa.table({"text": [text_of(1)], "n": [1]}), tmp_path / "a.parquet")
    source = {"name": "a", "format": "parquet", "paths": [str(tmp_path / "a.parquet")]}
    for column, message in (("sight", "no 'sight' here, only"), ("n", "column 'n' holds int64")):
        with pytest.raises(CorpusError, match=message):
            make(source, filters={"caps": [cap | {"column": column}]}, out=f"{tmp_path}/x{column}")


# ----------------------------------------------------------------------------------- dry run


def test_a_dry_run_compares_the_sample(config, everything):
    settings = config(*everything.pop("sources"), **everything)

    found = {one.name: one for one in dry_run(settings, open_inputs(settings)).records}

    assert list(found)[2:] == ["lists.some", "own.keep", "near_duplicates", "decontaminate"]
    assert found["near_duplicates"].dropped["of another one of the sample"] > 20
    assert found["decontaminate"].dropped["quiz"] >= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": ["none.jsonl"]}, "none.jsonl: no such file"),
        ({"columns": ["answer"]}, "quiz.jsonl, line 1: no 'answer' here, only 'question'"),
        ({"paths": ["short.jsonl"]}, "none of its 1 texts has 13 words"),
    ],
)
def test_an_evaluation_that_cannot_be_used_is_named(
    config, everything, change, message, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.jsonl").write_text('{"question": "Why?"}\n')
    everything["filters"]["decontaminate"]["evaluations"][0] |= change
    settings = config(*everything.pop("sources"), **everything)

    with pytest.raises(CorpusError) as caught:
        open_inputs(settings)

    assert message in str(caught.value)


def test_splits_are_in_the_order_that_decides_who_stays():
    assert SPLITS == ("train", "validation", "test")

"""A corpus without a document: rows of several documents keep the others, and ids are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from inline_prepare import prepared_chats

from manta.config.errors import CorpusError
from manta.corpus.inspect import inspect
from manta.corpus.lineage.document_places import asked_ids, places_of
from manta.corpus.lineage.forgetting import forget
from manta.corpus.lineage.origin import Origin
from manta.corpus.manifest import Manifest
from manta.sample import shard_file


def conversations(folder: Path) -> dict[str, list[tuple[list[int], list[int]]]]:
    """Tokens, and places of those that are trained on, of each conversation by its id."""
    found: dict[str, list[tuple[list[int], list[int]]]] = {}
    for shard in Manifest.read(folder).shards:
        for row in shard_file.read(folder / shard.file).to_pylist():
            ids, starts = row["doc_id"].split("+"), [*row["starts"], len(row["tokens"])]
            assert len(ids) == len(starts) - 1
            spans = list(zip(row["supervised"][::2], row["supervised"][1::2], strict=True))
            for one, begin, end in zip(ids, starts, starts[1:], strict=False):
                trained = [p - begin for b, e in spans for p in range(b, e) if begin <= p < end]
                found.setdefault(one, []).append((row["tokens"][begin:end], trained))
    return found


def test_packed_rows_keep_all_other_conversations(tmp_path):
    folders = prepared_chats(tmp_path, 64)
    for packing, folder in folders.items():
        before = conversations(folder)
        names = sorted(before)[3:40:7]
        made = forget(str(folder), names, str(tmp_path / f"new {packing}"))
        after = conversations(tmp_path / f"new {packing}")
        assert after == {name: found for name, found in before.items() if name not in names}
        # Counts, checksums, labels and rows fit each other: `inspect` verifies every byte.
        assert inspect(tmp_path / f"new {packing}").verified == len(made.shards)
        for split, counts in Manifest.read(folder).counts.items():
            lost = [
                one
                for name in names
                for one in places_of(str(folder), Manifest.read(folder), [name])
                if one.split == split
            ]
            assert counts["a"].documents - made.counts[split]["a"].documents == len(lost)
        tokens = sum(len(t) for found in after.values() for t, _ in found)
        trained = sum(len(t) for found in after.values() for _, t in found)
        assert sum(made.counts[s]["a"].tokens for s in made.counts) == tokens
        assert sum(made.counts[s]["a"].supervised for s in made.counts) == trained


@pytest.mark.usefixtures("inline")
def test_documents_are_named_by_id_text_or_list(make, jsonl, tmp_path):
    texts = [f"{i} and so on, for {i * i} times" for i in range(40)]
    manifest = make(jsonl(texts))
    folder = str(tmp_path / "out")
    text, listed = tmp_path / "one.txt", tmp_path / "ids"
    text.write_text(texts[4])
    [name] = asked_ids([str(text)])
    [place] = places_of(folder, manifest, [name])
    assert [each.doc_id for each in places_of(folder, manifest, [name[:12]])] == [name]
    listed.write_text(f"{name}\n{name}\n")
    assert asked_ids([f"@{listed}"]) == [name]
    with pytest.raises(CorpusError, match="'4711': give a document by its id"):
        asked_ids(["4711"])
    with pytest.raises(CorpusError, match="has no document ffffffff: an id is that of the text"):
        forget(folder, ["ffffffff"], str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()

    made = forget(folder, [name], str(tmp_path / "new"))
    untouched = next(shard for shard in made.shards if shard.file != place.file)
    assert (tmp_path / "new" / untouched.file).samefile(tmp_path / "out" / untouched.file)
    origin = Origin.read(tmp_path / "new", made.fingerprint)
    assert origin is not None
    [parent] = origin.parents
    assert (parent.relation, parent.forgotten) == ("forgets", [name])
    assert texts[4] not in json.dumps(origin.model_dump())
    with pytest.raises(CorpusError, match="new: is there already"):
        forget(folder, [name], str(tmp_path / "new"))

"""Sample i is the i-th slice of the split laid end to end, wherever shards and documents end."""

import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manta.config.errors import CorpusError
from manta.sample import shard_file
from manta.sample import tokens as token_windows
from manta.sample.tokens import Tokens, flat_starts, position_ids
from manta.stream import shards as readers
from manta.stream.shards import ShardReader
from manta.stream.table import ShardTable

# For each shard, the lengths of its documents. Shards may be shorter than a sample.
layouts = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=6)
made = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def corpus(tmp_path, make_corpus):
    """Makes a corpus in a folder of its own: the folder and the manifest."""
    number = itertools.count()

    def of(layout, split="train", **more):
        folder = tmp_path / str(next(number))
        return folder, make_corpus(folder, {split: layout}, **more)

    return of


def reader_of(folder, manifest, length, split="train"):
    table = ShardTable.of(manifest, split)
    return ShardReader(folder, table, manifest.format_of_samples, length)


def whole(folder, manifest, split="train"):
    """All tokens of a split, and which of them begin a document: read without the reader."""
    tokens, starts = [], []
    for shard in manifest.shards_of(split):
        for document in shard_file.read(Path(folder) / shard.file).column("tokens").to_pylist():
            starts += [True] + [False] * (len(document) - 1)
            tokens += document
    return np.array(tokens), np.array(starts)


@made
@given(layout=layouts, seq_len=st.integers(1, 60), data=st.data())
def test_sample_is_a_slice_of_the_whole(corpus, layout, seq_len, data):
    folder, manifest = corpus(layout)
    tokens, starts = whole(folder, manifest)
    if len(tokens) < seq_len:
        with pytest.raises(CorpusError):
            reader_of(folder, manifest, seq_len)
        return
    reader = reader_of(folder, manifest, seq_len)
    count = len(tokens) // seq_len
    assert reader.num_samples == count
    ids = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=12)), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_windows, "ROWS_AT_ONCE", data.draw(st.sampled_from([1, 3, 256])))
        patch.setattr(readers, "MOST_MAPPED", data.draw(st.sampled_from([1, 2, 256])))
        samples = reader.read(ids)
    rows = [slice(i * seq_len, (i + 1) * seq_len) for i in ids]
    assert samples["tokens"].shape == (len(ids), seq_len)
    assert samples["tokens"].dtype == np.uint16
    assert samples["tokens"].tolist() == [tokens[row].tolist() for row in rows]
    begins = np.array([starts[row] for row in rows], bool).reshape(-1)
    assert flat_starts(samples).tolist() == np.flatnonzero(begins).tolist()


def test_no_more_shards_are_mapped_than_a_process_may_map(corpus, monkeypatch):
    monkeypatch.setattr(readers, "MOST_MAPPED", 3)
    folder, manifest = corpus([[10]] * 8)
    tokens, _ = whole(folder, manifest)
    reader = reader_of(folder, manifest, 10)
    maps = []
    for sample in [0, 1, 2, 3, 4, 5, 6, 7, 0]:
        assert (
            reader.read(np.array([sample]))["tokens"][0].tolist()
            == tokens[sample * 10 :][:10].tolist()
        )
        maps.append(len(mapped_below(folder)))
    assert maps == [1, 2, 3, 3, 3, 3, 3, 3, 3]


def mapped_below(folder):
    """The files of a folder that this process has mapped.

    Linux writes the list a page at a time, and what other threads map meanwhile moves it: it counts
    once two readings agree.
    """

    def reading():
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line.split(maxsplit=5)[-1] for line in lines if f"{folder}/" in line}

    found = reading()
    while found != (found := reading()):
        pass
    return found


@made
@given(layout=layouts, seq_len=st.integers(1, 60))
def test_position_ids_restart_at_documents_and_at_samples(corpus, layout, seq_len):
    folder, manifest = corpus([*layout, [seq_len]])
    tokens, starts = whole(folder, manifest)
    reader = reader_of(folder, manifest, seq_len)
    positions = position_ids(reader.read(np.arange(reader.num_samples)))
    used = reader.num_samples * seq_len
    expected = []
    for place in range(used):
        restart = starts[place] or place % seq_len == 0
        expected.append(0 if restart else expected[-1] + 1)
    assert positions.reshape(-1).tolist() == expected
    # Within a sample, 0 after each token 0, which ends a document, and nowhere else but first.
    before = tokens[: used - 1][np.arange(1, used) % seq_len != 0]
    assert np.array_equal(positions[:, 1:].reshape(-1) == 0, before == 0)


def test_sample_over_many_short_shards(corpus):
    folder, manifest = corpus([[3], [1, 1], [2], [1], [9, 4]])
    tokens, _ = whole(folder, manifest)
    samples = reader_of(folder, manifest, 10).read(np.array([1, 0]))
    assert samples["tokens"].tolist() == [tokens[10:20].tolist(), tokens[:10].tolist()]
    # Row 0 is sample 1, from within the document of 9; row 1 holds the five short ones.
    assert flat_starts(samples).tolist() == [7, 10, 13, 14, 15, 17, 18]
    assert position_ids(samples).tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 0, 1, 2],
        [0, 1, 2, 0, 0, 0, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize(("tokens", "samples"), [(99, 9), (100, 10), (101, 10), (109, 10)])
def test_leftover_at_the_end_is_not_used(corpus, tokens, samples):
    folder, manifest = corpus([[60], [tokens - 60]])
    reader = reader_of(folder, manifest, 10)
    assert reader.num_samples == samples
    last = reader.read(np.array([samples - 1]))["tokens"][0]
    assert last.tolist() == whole(folder, manifest)[0][samples * 10 - 10 : samples * 10].tolist()


def test_tokens_are_as_wide_as_the_vocabulary_needs(corpus):
    folder, manifest = corpus([[500]], vocab_size=100_000)
    samples = reader_of(folder, manifest, 500).read(np.array([0]))
    assert samples["tokens"].dtype == np.uint32
    assert samples["tokens"].max() > 2**16
    assert samples["tokens"][0].tolist() == whole(folder, manifest)[0].tolist()


def test_splits_are_apart(tmp_path, make_corpus):
    manifest = make_corpus(tmp_path, {"train": [[30]], "validation": [[20], [7]]})
    reader = reader_of(tmp_path, manifest, 9, "validation")
    tokens, _ = whole(tmp_path, manifest, "validation")
    assert reader.read(np.arange(3))["tokens"].reshape(-1).tolist() == tokens.tolist()


def test_no_ids_give_no_rows(corpus):
    folder, manifest = corpus([[30]])
    samples = reader_of(folder, manifest, 10).read(np.empty(0, np.int64))
    assert samples["tokens"].shape == position_ids(samples).shape == (0, 10)
    assert flat_starts(samples).tolist() == []


# Refusals.


@pytest.mark.parametrize(("split", "tokens"), [("train", 9), ("validation", 0)])
def test_split_without_a_whole_sample_is_refused(corpus, split, tokens):
    folder, manifest = corpus([[4], [5]])
    message = f"{folder}: the {split} split has {tokens} tokens, fewer than one sample .* = 10"
    with pytest.raises(CorpusError, match=message):
        reader_of(folder, manifest, 10, split)


def damage_missing(path):
    path.unlink()


def damage_truncated(path):
    os.truncate(path, path.stat().st_size - 8)


def damage_content(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, "can't be read: No such file"),
        (damage_truncated, r"\d+ bytes, but the manifest says \d+; the shard is damaged"),
        (damage_content, "can't be read as a shard"),
    ],
)
def test_damaged_shard_is_named_when_it_is_needed(corpus, damage, message):
    folder, manifest = corpus([[30, 10], [30, 20], [40]])
    reader = reader_of(folder, manifest, 10)
    path = folder / manifest.shards[1].file
    damage(path)
    reader.read(np.array([0, 3, 9, 12]))  # in the other shards
    with pytest.raises(CorpusError, match=f"{path}: {message}"):
        reader.read(np.array([5]))
    with pytest.raises(CorpusError, match=f"{path}: {message}"):
        reader.read(np.array([0, 4]))


def test_shard_of_another_content_is_named(corpus):
    """Each of the right size, but not what the manifest says."""
    folder, manifest = corpus([[30]])
    other, told = corpus([[20]])
    for update in ({"tokens": 20}, {"tokens": 31}):
        shard = manifest.shards[0].model_copy(update=update)
        lie = manifest.model_copy(update={"shards": [shard]})
        with pytest.raises(CorpusError, match=f"{folder / shard.file}: its content is not what"):
            reader_of(folder, lie, 5).read(np.array([0]))
    lie = told.model_copy(update={"token_dtype": "uint32"})
    with pytest.raises(CorpusError, match=f"{other / told.shards[0].file}: its content is not"):
        reader_of(other, lie, 5).read(np.array([0]))
    path = folder / manifest.shards[0].file
    with pa.ipc.new_file(path, shard_file.whole_schema(Tokens("uint16").schema)):
        pass  # no record batch at all
    shard = manifest.shards[0].model_copy(update={"bytes": path.stat().st_size})
    with pytest.raises(CorpusError, match=f"{path}: 0 record batches, not one"):
        reader_of(folder, manifest.model_copy(update={"shards": [shard]}), 5).read(np.array([0]))

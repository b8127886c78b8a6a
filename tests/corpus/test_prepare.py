"""What a prepared corpus holds. In one process: Ray is in test_on_ray.py."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.config.errors import CorpusError
from manta.corpus import scan, worker_pool
from manta.corpus.documents import content_hash
from manta.corpus.manifest import Manifest
from manta.corpus.prepare import prepare
from manta.corpus.tokenizer import train
from manta.sample import shard_file

pytestmark = pytest.mark.usefixtures("inline")
TEXTS = [f"document {i}: {'lorem ipsum ' * (i % 7)}" for i in range(200)]


def test_every_document_is_there_once_in_order_with_its_id(make, jsonl, documents, tmp_path):
    manifest = make(jsonl(TEXTS), shard_tokens=500)

    found = documents(tmp_path / "out")
    by_split = {
        split: [text for at, _, _, text in found if at == split]
        for split in ("train", "validation", "test")
    }
    place = {text: i for i, text in enumerate(TEXTS)}
    assert sorted(text for *_, text in found) == sorted(TEXTS)
    assert all(texts == sorted(texts, key=place.get) for texts in by_split.values())
    assert all(len(texts) > 5 for texts in by_split.values())
    assert all(doc_id == content_hash(text.encode()).hex() for *_, doc_id, text in found)
    for split, texts in by_split.items():
        assert manifest.counts[split]["docs"].documents == len(texts)
        assert manifest.counts[split]["docs"].tokens == manifest.tokens_of(split)


def test_the_bytes_of_the_texts_are_counted(make, jsonl, documents, tmp_path):
    """By split and source, in UTF-8; without what is left out."""
    others = [f"größer {i} {'x' * i}" for i in range(90)]
    manifest = make(jsonl([*TEXTS[:90], *TEXTS[:9], ""], "a"), jsonl(others, "b"), shard_tokens=500)
    found = documents(tmp_path / "out")
    for split, counts in manifest.counts.items():
        for name, count in counts.items():
            texts = [text for at, source, _, text in found if (at, source) == (split, name)]
            assert count.bytes == sum(len(text.encode()) for text in texts) > 0


def test_a_shard_is_an_uncompressed_arrow_file_of_one_batch(make, jsonl, tmp_path):
    manifest = make(jsonl(TEXTS), shard_tokens=500)

    for shard in manifest.shards:
        mapped = pa.memory_map(str(tmp_path / "out" / shard.file))
        file = pa.ipc.open_file(mapped)
        assert file.num_record_batches == 1
        batch = file.get_batch(0)
        assert batch.schema.field("tokens").type == pa.list_(pa.uint16())
        assert batch.schema.field("doc_id").type == pa.string()
        assert batch.schema.field("source").type.value_type == pa.string()
        assert (batch.num_rows, mapped.size()) == (shard.documents, shard.bytes)
        # Read in place: the tokens lie within the mapped file.
        mapped.seek(0)
        whole = mapped.read_buffer(mapped.size())
        tokens = batch.column("tokens").values.buffers()[1]
        assert whole.address <= tokens.address < whole.address + whole.size


def test_shards_come_out_near_the_size_asked_for(make, jsonl):
    manifest = make(jsonl([f"{i} {text}" for i in range(8) for text in TEXTS]), shard_tokens=2000)

    *full, last = [shard.tokens for shard in manifest.shards_of("train")]
    assert len(full) > 3
    assert all(2000 <= tokens <= 6000 for tokens in full)
    assert last <= 6000


def test_a_shard_has_rows_of_one_source_which_the_manifest_names(make, jsonl, tmp_path):
    """However small a source is; the tokens of a split lie source after source."""
    sources = {"large": TEXTS[:150], "one": ["a single document"], "small": TEXTS[150:]}
    made = make(*(jsonl(texts, name) for name, texts in sources.items()), shard_tokens=10**6)
    alone = make(jsonl(TEXTS[:150], "large"), out=str(tmp_path / "alone"), shard_tokens=10**6)

    assert [shard.source for shard in made.shards_of("train")] == list(sources)
    assert made.sample == "tokens"
    for shard in made.shards:
        table = shard_file.read(tmp_path / "out" / shard.file)
        assert set(table.column("source").to_pylist()) == {shard.source}
    for split, counts in made.counts.items():
        for name, count in counts.items():
            shards = [shard for shard in made.shards_of(split) if shard.source == name]
            assert sum(shard.documents for shard in shards) == count.documents
            assert sum(shard.tokens for shard in shards) == count.tokens
    assert alone.shards_of("train")[0].documents == made.shards[0].documents


def test_duplicates_go_and_the_first_one_stays(make, jsonl, documents, tmp_path):
    first = jsonl(["a b c", "only here", "a b c"], "first")
    second = jsonl(["a b c", "x y z", "only here"], "second")

    manifest = make(first, second, split={"train": 1, "validation": 0, "test": 0})

    found = [(source, text) for _, source, _, text in documents(tmp_path / "out")]
    assert found == [("first", "a b c"), ("first", "only here"), ("second", "x y z")]
    assert manifest.dropped == {"duplicate": 3, "empty": 0, "quarantined": 0}


def test_no_document_moves_to_another_split_when_the_corpus_grows(make, jsonl, documents, tmp_path):
    make(jsonl(TEXTS[50:150]), out=str(tmp_path / "small"))
    make(jsonl(TEXTS[100:] + TEXTS[:120], "grown"), out=str(tmp_path / "large"))

    small = {text: split for split, _, _, text in documents(tmp_path / "small")}
    large = {text: split for split, _, _, text in documents(tmp_path / "large")}
    assert set(small.values()) == {"train", "validation", "test"}
    assert small.items() <= large.items()


def test_empty_documents_go(make, jsonl):
    assert make(jsonl([*TEXTS, "", " \n"])).dropped["empty"] == 2


def test_eos_in_a_text_does_not_end_the_document(make, jsonl, documents, tmp_path):
    texts = [*TEXTS, "left<|endoftext|>right"]
    make(jsonl(texts))

    assert texts[-1] in [text for *_, text in documents(tmp_path / "out")]


def test_a_large_vocabulary_takes_wider_tokens(make, jsonl, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {f"w{i}": i for i in range(70_000)} | {"</s>": 70_000}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "t.json"))
    source = jsonl(["w69999 w1"])

    manifest = make(
        source,
        tokenizer={"path": str(tmp_path / "t.json")},
        split={"train": 1, "validation": 0, "test": 0},
    )

    table = pa.ipc.open_file(str(tmp_path / "out" / "train-00000.arrow")).read_all()
    assert manifest.token_dtype == "uint32"
    assert table.column("tokens").to_pylist() == [[69_999, 1, 70_000]]


def test_the_tokenizer_learns_from_a_sample_of_train_only(make, jsonl, monkeypatch):
    seen: list[str] = []

    def noted(texts, vocab_size):
        seen.extend(texts)
        return train(seen, vocab_size)

    monkeypatch.setattr("manta.corpus.prepare.train", noted)

    manifest = make(jsonl(TEXTS), tokenizer={"vocab_size": 300, "sample_bytes": 2000})

    assert 2000 <= sum(map(len, seen)) <= 2000 + max(map(len, TEXTS))
    assert len(set(seen)) == len(seen) < manifest.counts["train"]["docs"].documents


def test_the_order_in_which_units_are_done_changes_nothing(
    config, jsonl, contents, monkeypatch, tmp_path
):
    settings = config(jsonl(TEXTS), shard_tokens=300)
    straight = worker_pool.run
    prepare(settings, progress=False)
    expected = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")

    monkeypatch.setattr(
        worker_pool, "run", lambda task, orders: straight(task, sorted(orders, key=str)[::-1])
    )
    prepare(settings, progress=False)

    assert len(expected) > 10
    assert contents(tmp_path / "out") == expected


def test_the_fingerprint_follows_content_not_place(make, jsonl, tmp_path):
    one = make(jsonl(TEXTS))
    (tmp_path / "moved").mkdir()
    moved = shutil.move(tmp_path / "docs.jsonl", tmp_path / "moved")
    source = {"name": "docs", "format": "jsonl", "paths": [str(moved)]}
    same = make(source, out=str(tmp_path / "out2"))
    other = make({**source, "name": "renamed"}, out=str(tmp_path / "out3"))

    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.config["sources"][0]["paths"] != same.config["sources"][0]["paths"]
    assert "out" not in one.config
    assert Manifest.read(tmp_path / "out") == one


def test_a_finished_corpus_is_returned_at_once(config, jsonl, capsys, monkeypatch, tmp_path):
    settings = config(jsonl(TEXTS))
    manifest = prepare(settings, progress=False)
    monkeypatch.setattr(worker_pool, "run", None)

    assert prepare(settings, progress=True) == manifest
    assert "already prepared" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["config", "input", "time"])
def test_a_finished_corpus_is_never_overwritten(config, jsonl, contents, tmp_path, change):
    source = jsonl(TEXTS)
    prepare(config(source), progress=False)
    before = contents(tmp_path / "out")
    settings = config(source, shard_tokens=77) if change == "config" else config(source)
    if change == "input":
        jsonl([*TEXTS, "one more"])
    if change == "time":
        os.utime(source["paths"][0], ns=(1, 1))

    with pytest.raises(CorpusError, match="choose another 'out'"):
        prepare(settings, progress=False)

    assert contents(tmp_path / "out") == before


def test_a_finished_corpus_that_lost_a_shard_says_so(config, jsonl, tmp_path):
    settings = config(jsonl(TEXTS))
    prepare(settings, progress=False)
    (tmp_path / "out" / "test-00000.arrow").unlink()

    with pytest.raises(CorpusError, match=r"test-00000\.arrow: missing or cut short"):
        prepare(settings, progress=False)


def test_a_folder_of_something_else_is_left_alone(make, jsonl, contents, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")

    with pytest.raises(CorpusError, match="files that are no corpus"):
        make(jsonl(TEXTS))

    assert contents(tmp_path / "out") == {"thesis.tex": b"precious"}


def test_two_at_once_in_one_folder(make, jsonl, monkeypatch):
    source = jsonl(TEXTS)
    real = scan.collect

    def meanwhile(*args):
        with pytest.raises(CorpusError, match="another 'manta prepare' is at work"):
            make(source)
        return real(*args)

    monkeypatch.setattr(scan, "collect", meanwhile)
    make(source)


def test_urls_are_no_place_to_write(config, jsonl):
    """Known from the config alone."""
    with pytest.raises(ValueError, match="give a folder"):
        config(jsonl(TEXTS), out="s3://bucket/corpus")


def test_without_ray_the_caller_is_wrong(config, jsonl, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)

    with pytest.raises(RuntimeError, match=r"ray\.init"):
        prepare(config(jsonl(TEXTS)))


@pytest.fixture
def bad_input(jsonl, tmp_path):
    """Good documents among every kind of bad input; the sources and what is said of each."""
    good = jsonl(TEXTS)
    lines = [json.dumps({"text": "fine"}), "{no json", "", json.dumps({"body": "x"})]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    (tmp_path / "latin.txt").write_bytes(b"one\ncaf\xe9\n")
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "null.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    sources = [
        good,
        {"name": "lines", "format": "jsonl", "paths": [str(tmp_path / "bad.jsonl")]},
        {"name": "texts", "format": "text", "paths": [str(tmp_path / "*.txt")]},
        {"name": "tables", "format": "parquet", "paths": [str(tmp_path / "*.parquet")]},
    ]
    said = {
        f"{tmp_path}/junk.parquet: can't be read: ",
        f"{tmp_path}/bad.jsonl, line 2: not valid JSON: ",
        f"{tmp_path}/bad.jsonl, line 4: no 'text' here, only 'body'",
        f"{tmp_path}/dangling.txt: can't be read: No such file or directory",
        f"{tmp_path}/latin.txt, line 2: not valid UTF-8: byte 0xe9",
        f"{tmp_path}/null.parquet, row 1: 'text' is null",
    }
    return sources, said


def test_all_bad_inputs_are_named_and_nothing_is_left(make, bad_input, tmp_path):
    sources, said = bad_input

    with pytest.raises(CorpusError) as caught:
        make(*sources)

    lines = str(caught.value).splitlines()
    assert {beginning for beginning in said for line in lines if line.startswith(beginning)} == said
    assert lines[-1].startswith("6 unusable inputs: ")
    assert not (tmp_path / "out").exists()


def test_bad_inputs_can_be_put_aside(make, bad_input, documents, tmp_path):
    sources, said = bad_input

    manifest = make(*sources, on_error="quarantine")

    entries = list(map(json.loads, (tmp_path / "out" / "quarantine.jsonl").open()))
    places = [
        f"{e['file']}{', ' if 'row' in e else ''}{e.get('row', '')}: {e['reason']}" for e in entries
    ]
    assert manifest.dropped["quarantined"] == len(places) == len(said)
    for beginning in said:
        assert any(place.startswith(beginning) for place in places)
    assert entries[1] == {
        "source": "lines",
        "file": str(tmp_path / "bad.jsonl"),
        "row": "line 2",
        "reason": entries[1]["reason"],
        "content": "{no json",
    }
    texts = {text for *_, text in documents(tmp_path / "out")}
    assert texts == {*TEXTS, "fine", "good", "a"}


def test_line_numbers_are_those_of_the_file(make, jsonl, tmp_path):
    """Also when the file is read in many parts, with blank lines in it."""
    source = jsonl([])
    lines = [json.dumps({"text": text}) for text in TEXTS]
    lines[10] = ""
    lines[150] = "oops"
    Path(source["paths"][0]).write_text("\n".join(lines))

    with pytest.raises(CorpusError, match=r"docs\.jsonl, line 151: not valid JSON"):
        make(source, shard_tokens=50)


def test_row_numbers_are_those_of_the_file(make, tmp_path):
    """Also when a unit holds many row groups."""
    rows = [str(i) for i in range(90)]
    rows[60] = None
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", row_group_size=25)
    source = {"name": "t", "format": "parquet", "paths": [str(tmp_path / "a.parquet")]}

    with pytest.raises(CorpusError, match=r"a\.parquet, row 60: 'text' is null"):
        make(source)


def test_many_problems_are_counted(make, jsonl):
    source = jsonl([])
    Path(source["paths"][0]).write_text("oops\n" * 25)

    with pytest.raises(CorpusError) as caught:
        make(source)

    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[10:] == ["… and 15 more", lines[11]]
    assert lines[11].startswith("25 unusable inputs")


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_an_empty_corpus_is_an_error(make, jsonl, texts, tmp_path):
    with pytest.raises(CorpusError, match="the corpus would be empty"):
        make(jsonl(texts))

    assert not (tmp_path / "out").exists()


def test_a_source_that_is_left_empty_stops_and_is_named(make, jsonl, tmp_path):
    """Three of four: a wrong column, only white space, only what another source has too."""
    wrong, again = jsonl([], "wrong"), jsonl(TEXTS[:2], "again")
    Path(wrong["paths"][0]).write_text('{"body": "x"}\n' * 3)

    with pytest.raises(CorpusError) as caught:
        make(jsonl(TEXTS), wrong, jsonl(["", " "], "blank"), again, on_error="quarantine")

    assert str(caught.value).splitlines() == [
        "source 'wrong': no document is kept: 3 unusable, most often as in "
        f"{tmp_path}/wrong.jsonl, line 1: no 'text' here, only 'body'",
        "source 'blank': no document is kept: 2 empty",
        "source 'again': no document is kept: 2 duplicates",
        "repair each source named above, or remove it from 'sources'",
    ]
    assert not (tmp_path / "out").exists()


def test_a_source_of_which_little_is_left_is_named(config, jsonl, capsys, tmp_path):
    bad = jsonl([], "bad")
    lines = ['{"text": "fine"}', *['{"body": "x"}'] * 9, "oops"]
    Path(bad["paths"][0]).write_text("\n".join(lines))

    prepare(config(jsonl(TEXTS), bad, on_error="quarantine"))

    said = capsys.readouterr().err
    assert (
        "many documents were dropped: source 'bad': 1 of 11 documents are kept: 10 unusable, most "
        f"often as in {tmp_path}/bad.jsonl, line 2: no 'text' here, only 'body'"
    ) in said
    assert "'docs'" not in said


def test_a_large_document_that_can_not_be_cut_is_told(config, jsonl, capsys, monkeypatch, tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"x": 0, "</s>": 1}, "x")).save(str(tmp_path / "t.json"))
    monkeypatch.setattr("manta.corpus.prepare.LARGE", 1000)

    prepare(config(jsonl(["words " * 200, *TEXTS]), tokenizer={"path": str(tmp_path / "t.json")}))

    assert "the largest document has 1.2KB, and Manta can't tell" in capsys.readouterr().err

    prepare(config(jsonl(["words " * 200, *TEXTS]), out=str(tmp_path / "other")))

    assert "Manta can't tell" not in capsys.readouterr().err


def test_an_empty_train_split_is_an_error(make, jsonl):
    with pytest.raises(CorpusError, match=r"train split.*split\.train"):
        make(jsonl(["x"]), split={"train": 1e-9, "validation": 0.9, "test": 0})


def test_input_that_changes_between_the_passes_is_noticed(make, jsonl, monkeypatch, tmp_path):
    source = jsonl(TEXTS)
    real = scan.collect

    def changed(*args):
        scanned = real(*args)
        path = Path(source["paths"][0])
        path.write_text(path.read_text().replace("document 7:", "document X:"))
        return scanned

    monkeypatch.setattr(scan, "collect", changed)

    with pytest.raises(CorpusError, match=r"input changed.*docs\.jsonl"):
        make(source)

    assert not (tmp_path / "out" / "manifest.json").exists()

"""Reading a corpus back, whole and damaged."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from manta.config.errors import CorpusError
from manta.corpus.inspect import inspect, render
from manta.corpus.manifest import Manifest
from manta.sample import shard_file
from manta.sample.tokens import document_tokens, documents_batch

TEXTS = [f"document {i} " + "[red]text[/red] " * (i % 5) for i in range(100)]


@pytest.fixture
def corpus(inline, make, jsonl, tmp_path: Path) -> Path:
    make(jsonl(TEXTS[:50], "one"), jsonl(TEXTS[50:], "two"), shard_tokens=400)
    return tmp_path / "out"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_the_report(corpus):
    report = inspect(corpus, samples=4)

    assert report.manifest == Manifest.read(corpus)
    assert report.verified == len(report.manifest.shards) > 4
    assert [sample.source for sample in report.samples] == ["one", "one", "two", "two"]
    assert all(sample.text in TEXTS for sample in report.samples)


def test_the_report_in_a_terminal(corpus):
    out = io.StringIO()
    report = inspect(corpus)
    Console(file=out, width=120).print(render(report))

    shown = out.getvalue()
    assert report.manifest.fingerprint in shown
    assert f"{report.manifest.tokens_of('train'):,}" in shown
    assert "checksums right" in shown
    assert report.samples[1].text.strip() in shown  # with its brackets as they are
    assert "validation" in shown


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_found_and_the_shard_named(corpus, share):
    path = corpus / "train-00001.arrow"
    flip(path, int(path.stat().st_size * share))

    with pytest.raises(CorpusError) as caught:
        inspect(corpus)

    assert str(caught.value).startswith(f"{path}: damaged: its checksum")
    assert "train-00000" not in str(caught.value)


def test_every_damaged_file_is_named(corpus):
    (corpus / "train-00000.arrow").unlink()
    cut = corpus / "validation-00000.arrow"
    cut.write_bytes(cut.read_bytes()[:-8])
    flip(corpus / "tokenizer.json", 50)

    with pytest.raises(CorpusError) as caught:
        inspect(corpus, verify=False)  # what can be seen without reading it all

    lines = str(caught.value).splitlines()
    assert "train-00000.arrow: can't be read: No such file" in lines[0]
    assert "validation-00000.arrow: damaged: " in lines[1]
    assert "tokenizer.json: damaged: its checksum" in lines[2]


def test_a_changed_manifest_is_found(corpus):
    path = corpus / "manifest.json"
    path.write_text(path.read_text().replace('"weight": 1.0', '"weight": 3.0', 1))

    with pytest.raises(CorpusError, match="does not match its fingerprint"):
        inspect(corpus)


def test_a_shard_that_breaks_the_contract_is_found(corpus):
    """Checksums alone would pass: the manifest was made for this shard."""
    manifest = Manifest.read(corpus)
    shard = manifest.shards[0]
    table = shard_file.read(corpus / shard.file)
    tokens, ends = document_tokens(table)
    broken = tokens.copy()
    broken[ends[0] - 1] = 299  # the first document loses its EOS
    rows = [broken[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    ids = table.column("doc_id").to_pylist()
    with (corpus / shard.file).open("wb") as file:
        size, sha256 = shard_file.write(
            file, documents_batch(rows, ids, 0, ["one", "two"], "uint16")
        )
    changed = shard.model_copy(update={"bytes": size, "sha256": sha256})
    sealed = manifest.model_copy(update={"shards": [changed, *manifest.shards[1:]]}).sealed()
    sealed.write(corpus)

    with pytest.raises(CorpusError, match="do not end where its EOS tokens are"):
        inspect(corpus)


def test_a_shard_of_another_source_than_the_manifest_says_is_found(corpus):
    manifest = Manifest.read(corpus)
    lie = manifest.shards[0].model_copy(update={"source": "two"})
    manifest.model_copy(update={"shards": [lie, *manifest.shards[1:]]}).sealed().write(corpus)

    with pytest.raises(CorpusError, match=f"{lie.file}: not all of its rows are of .* 'two'"):
        inspect(corpus)


def test_no_corpus_here(tmp_path):
    with pytest.raises(CorpusError, match="no prepared corpus here"):
        inspect(tmp_path)


def test_reading_a_manifest_is_light():
    """A wrong config or path must show at once, before Ray and Arrow are imported."""
    heavy = "ray pyarrow numpy torch tokenizers transformers fsspec rich"
    loaded = f"[name for name in {heavy.split()} if name in sys.modules]"
    script = f"import sys, manta.corpus.manifest; print({loaded})"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"

"""Corpora that are joined are one corpus, which reads what its parts have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.config.errors import CorpusError
from manta.corpus.join import join
from manta.corpus.manifest import MANIFEST, Manifest
from manta.stream.mixed_sources import source_spans
from manta.stream.plan import open_corpus, reader_of

SEQ = 10
Parts = Callable[..., tuple[str, str]]


@pytest.fixture
def parts(tmp_path: Path, make_corpus: Any) -> Parts:
    """Two corpora in folders; keywords change the manifest of the second."""

    def made(sources: tuple[str, ...] = ("math",), **changes: Any) -> tuple[str, str]:
        folders = tmp_path / "a", tmp_path / "b"
        splits = {"train": [[30] * 4, [25] * 4], "validation": [[40], [20]]}
        make_corpus(folders[0], splits, sources=("web", "code"))
        manifest = make_corpus(
            folders[1], {"train": [[70] * 3], "validation": [[30]]}, seed=1, sources=sources
        )
        for folder in folders:
            (folder / "tokenizer.json").write_text("{}")
        manifest.model_copy(update=changes).sealed().write(folders[1])
        return str(folders[0]), str(folders[1])

    return made


def test_it_has_the_samples_and_sources_of_both(parts: Parts, tmp_path: Path) -> None:
    a, b = parts()
    out = str(tmp_path / "ab")
    manifest = join([a, b], out)
    assert manifest == Manifest.read(out)
    assert list(manifest.counts["train"]) == ["web", "code", "math"]
    assert [(s.split, s.source) for s in manifest.shards_of("train")] == [
        ("train", name) for name in ("web", "code", "math")
    ]
    spans = source_spans(out, manifest, "train", manifest.format_of_samples, SEQ)
    assert [span.samples for span in spans.values()] == [12, 10, 21]
    joined = reader_of(open_corpus(out, manifest, "train", SEQ, 0))
    math = reader_of(open_corpus(b, Manifest.read(b), "train", SEQ, 0))
    found = joined.read(np.arange(22, 43))["tokens"]
    assert np.array_equal(found, math.read(np.arange(21))["tokens"])


def test_its_files_are_those_of_its_parts(parts: Parts, tmp_path: Path) -> None:
    a, b = parts()
    out = tmp_path / "new" / "ab"
    manifest = join([a, b], str(out))
    assert (out / "train-00002.arrow").samefile(Path(b) / "train-00000.arrow")
    assert {path.name for path in out.iterdir()} >= {MANIFEST, "tokenizer.json"}
    assert join([a, b], str(out)) == manifest, "again, nothing happens"
    assert manifest.config["joined"] == [Manifest.read(each).fingerprint for each in (a, b)]
    other = join([b, a], str(tmp_path / "ba"))
    assert other.fingerprint != manifest.fingerprint
    with pytest.raises(CorpusError, match="is there already, and is not this corpus"):
        join([b, a], str(out))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            {"tokenizer_sha256": "f" * 64},
            r"a \(.{12}…\) and .*b \(.{12}…\) have different tokenizers, .*… and ffffffffffff…: "
            r"prepare one of them again with tokenizer\.path: .*tokenizer\.json",
        ),
        ({"vocab_size": 63}, "vocab_size is 64 in the first and 63 in the second"),
        ({"config": {"split": {"train": 1}}}, "were prepared with different sections 'split'"),
        ({"sources": ("code",)}, "both have a source called 'code'"),
    ],
)
def test_what_does_not_fit_is_refused(
    parts: Parts, tmp_path: Path, made: dict[str, Any], message: str
) -> None:
    a, b = parts(**made)
    with pytest.raises(CorpusError, match=message):
        join([a, b], str(tmp_path / "ab"))
    assert not (tmp_path / "ab").exists()


def test_what_cannot_be_joined_is_named(parts: Parts, tmp_path: Path) -> None:
    a, b = parts()
    with pytest.raises(CorpusError, match="at least two corpora"):
        join([a], str(tmp_path / "ab"))
    with pytest.raises(CorpusError, match=r"s3://x/y: a corpus to join must be in a folder"):
        join([a, "s3://x/y"], str(tmp_path / "ab"))
    with pytest.raises(CorpusError, match="no prepared corpus here"):
        join([a, str(tmp_path)], str(tmp_path / "ab"))
    (Path(b) / "train-00000.arrow").unlink()
    with pytest.raises(CorpusError, match=r"train-00000\.arrow: is missing"):
        join([a, b], str(tmp_path / "ab"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]

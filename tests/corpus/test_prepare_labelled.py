"""`prepare` on labelled texts: what is written, what is left out, and that this is said."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_templates import chat_tokenizer
from inline_prepare import without_ray
from rich.console import Console
from tokenizers import Tokenizer

from manta.config.corpus import CorpusConfig
from manta.config.errors import CorpusError
from manta.corpus.corpus_summary import show_summary
from manta.corpus.inspect import inspect, render
from manta.corpus.manifest import Manifest
from manta.corpus.prepare import prepare
from manta.corpus.tokenizer import decode
from manta.sample import shard_file

LENGTH = 48


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def reviews(count: int = 60) -> list[dict[str, Any]]:
    names = ["good", "bad", "neither"]
    return [
        {"text": f"review {i} {'very ' * (i % 4)}", "label": names[i % 3]} for i in range(count)
    ]


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def config_of(folder: Path, *paths: Path, **keys: Any) -> CorpusConfig:
    kinds = {".jsonl": "jsonl", ".parquet": "parquet"}
    return CorpusConfig.model_validate(
        {
            "out": str(folder / "corpus"),
            "sources": [
                {"name": p.stem, "format": kinds[p.suffix], "paths": [str(p)]} for p in paths
            ],
            "tokenizer": {"path": str(chat_tokenizer(folder / "tokenizer"))},
            "labelled": {"length": LENGTH, **keys.pop("labelled", {})},
            "split": {"train": 0.7, "validation": 0.2, "test": 0.1},
            **keys,
        }
    )


def texts_in(config: CorpusConfig) -> dict[str, Any]:
    """Each text in the corpus's rows → its label as people know it."""
    manifest, found = Manifest.read(config.out), {}
    for shard in manifest.shards:
        for row in shard_file.read(Path(config.out) / shard.file).to_pylist():
            bounds = [*row["starts"], len(row["tokens"])]
            parts = [row["tokens"][begin:end] for begin, end in pairwise(bounds)]
            texts = decode(Path(config.out), "tokenizer.json", parts, special=True)
            for text, label in zip(texts, row["labels"], strict=True):
                found[text] = label if manifest.classes is None else manifest.classes[label]
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_each_text_keeps_its_label_and_has_no_token_but_its_own(
    tmp_path: Path, packing: bool
) -> None:
    records = reviews()
    half = written(tmp_path / "a.jsonl", records[:30])
    table = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist(records[30:]), table)
    config = config_of(tmp_path, half, table, labelled={"packing": packing})
    manifest = prepare(config, progress=False)
    assert texts_in(config) == {record["text"]: record["label"] for record in records}
    assert (manifest.sample, manifest.classes) == ("labelled", ["bad", "good", "neither"])
    counted: dict[str, int] = {}
    for split in manifest.counts.values():
        for counts in split.values():
            assert counts.labels is not None
            assert sum(counts.labels.values()) == counts.documents
            for name, count in counts.labels.items():
                counted[name] = counted.get(name, 0) + count
    assert counted == dict.fromkeys(["good", "bad", "neither"], 20)
    rows = sum(shard.documents for shard in manifest.shards)
    assert rows < 60 if packing else rows == 60


def test_it_is_shown_with_its_labels(tmp_path: Path) -> None:
    config = config_of(tmp_path, written(tmp_path / "a.jsonl", reviews()))
    manifest = prepare(config, progress=False)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show_summary(manifest, config.out, console)
    console.print(render(inspect(config.out, samples=20)))
    said = console.export_text()
    assert "3: bad 33.3%, good 33.3%, neither 33.3%" in said
    assert "tokens · neither" in said


def test_whole_numbers_name_classes_in_their_order(tmp_path: Path) -> None:
    records = [{"review": f"review {i}", "stars": i % 11} for i in range(110)]
    config = config_of(
        tmp_path,
        written(tmp_path / "a.jsonl", records),
        labelled={"text": "review", "label": "stars"},
    )
    assert prepare(config, progress=False).classes == [str(stars) for stars in range(11)]
    assert texts_in(config)["review 21"] == "10"


def test_numbers_are_kept_as_they_are(tmp_path: Path) -> None:
    records = [{"text": f"review {i}", "label": i / 7} for i in range(30)]
    config = config_of(
        tmp_path, written(tmp_path / "a.jsonl", records), labelled={"labels": "numbers"}
    )
    assert prepare(config, progress=False).classes is None
    assert texts_in(config) == {record["text"]: record["label"] for record in records}


@pytest.mark.parametrize(
    ("record", "labels", "said"),
    [
        ({"text": "a"}, "classes", r"line 61: no 'label' here, only 'text': .* labelled.label"),
        ({"label": "good"}, "classes", "line 61: no 'text' here"),
        ({"text": "a", "label": None}, "classes", "line 61: 'label' is null"),
        ({"text": "a", "label": 0.5}, "classes", r"'label' is 0.5: .* labelled.labels: numbers"),
        ({"text": "a", "label": ["x"]}, "classes", "'label' is no name of a class"),
        ({"text": 7, "label": "good"}, "classes", "'text' is not a text"),
        ({"text": "a", "label": "good"}, "numbers", "'good', not a finite number"),
        ({"text": "a", "label": float("nan")}, "numbers", "'nan', not a finite number"),
        ({"text": "a", "label": True}, "numbers", "'True', not a finite number"),
    ],
)
def test_what_is_no_labelled_text_is_named_by_its_line(
    tmp_path: Path, record: dict[str, Any], labels: str, said: str
) -> None:
    records = reviews() if labels == "classes" else [r | {"label": 1} for r in reviews()]
    file = written(tmp_path / "a.jsonl", [*records, record])
    with pytest.raises(CorpusError, match=said):
        prepare(config_of(tmp_path, file, labelled={"labels": labels}), progress=False)


def test_a_class_without_a_text_to_train_on_is_refused(tmp_path: Path) -> None:
    rare = [{"text": f"review {i}", "label": f"rare {i}"} for i in range(12)]
    file = written(tmp_path / "a.jsonl", [*reviews(), *rare])
    said = r"the class 'rare \d+' has no text to train on, only 1 in (validation|test): add texts"
    with pytest.raises(CorpusError, match=said):
        prepare(config_of(tmp_path, file), progress=False)


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    records = [record | {"label": "good"} for record in reviews()]
    with pytest.raises(CorpusError, match="all texts are of the class 'good'"):
        prepare(config_of(tmp_path, written(tmp_path / "a.jsonl", records)), progress=False)


@pytest.mark.parametrize("too_long", ["stop", "drop", "cut"])
def test_a_text_longer_than_a_row_is_dealt_with_as_asked(tmp_path: Path, too_long: str) -> None:
    long = {"text": "x y " * LENGTH, "label": "good"}
    file = written(tmp_path / "a.jsonl", [*reviews(), long])
    config = config_of(tmp_path, file, labelled={"too_long": too_long})
    if too_long == "stop":
        said = r"1 of 61 texts are longer than labelled.length = 48: .* drop .* cut"
        with pytest.raises(CorpusError, match=said):
            prepare(config, progress=False)
        return
    manifest = prepare(config, progress=False)
    kept = [text for text in texts_in(config) if text.startswith("x y")]
    assert manifest.dropped["too_long"] == (too_long == "drop")
    assert manifest.length_cost is not None
    whole = Tokenizer.from_file(str(Path(config.out) / "tokenizer.json")).encode(long["text"]).ids
    lost = {name: cost.tokens for name, cost in manifest.length_cost.items() if cost.records}
    assert lost == {"drop": {"too_long": len(whole)}, "cut": {"cut": len(whole) - LENGTH}}[too_long]
    assert [len(text) for text in kept] == ([] if too_long == "drop" else [LENGTH])


def test_a_corpus_holds_one_kind_of_records(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chat and labelled: a corpus holds one kind"):
        config_of(tmp_path, tmp_path / "a.jsonl", chat={"length": LENGTH})

"""`prepare` on pairs of answers: whole pairs in rows, and what is left out is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inline_prepare import without_ray
from prepared_chats import LENGTH, config_of, made, rows_in, spans_of, write_lines
from rich.console import Console

from manta.config.corpus import CorpusConfig
from manta.config.errors import CorpusError
from manta.corpus.corpus_summary import show_summary
from manta.corpus.inspect import inspect, render
from manta.corpus.inspect_rows import wrong_chats
from manta.corpus.manifest import Manifest
from manta.corpus.tokenizer import decode
from manta.sample import shard_file
from manta.sample.chat import Pairs
from manta.stream.plan import open_corpus, reader_of


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def pair(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": question, "chosen": chosen, "rejected": rejected}


def prepared(folder: Path, path: Path, **chat: Any) -> CorpusConfig:
    return config_of(folder, path, chat={"records": "pairs", **chat})


def shown(question: str, answer: str) -> str:
    ends = "<|im_end|>\n"
    return f"<|im_start|>user\n{question}{ends}<|im_start|>assistant\n{answer}{ends}"


def pairs_in(config: CorpusConfig) -> list[tuple[str, ...]]:
    """Texts of the chosen and the rejected conversation, and of what is supervised in each."""
    found = []
    for row in rows_in(config):
        bounds = [*row["starts"], len(row["tokens"])]
        for number in range(0, len(row["starts"]), 2):
            begin, middle, end = bounds[number : number + 3]
            spans = [s for s in spans_of(row) if begin <= s[0] and s[1] <= end]
            assert [b < middle for b, _ in spans] == [True, False]
            places = [(begin, middle), (middle, end), *spans]
            parts = [row["tokens"][b:e] for b, e in places]
            found.append(tuple(decode(Path(config.out), "tokenizer.json", parts, special=True)))
    return found


def test_rows_are_whole_pairs_packed_tight_and_read_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 6, (120, 3)).tolist()
    records = [pair("q" * a, "y" * b, "n" * c) for a, b, c in sizes]
    config = prepared(tmp_path, write_lines(tmp_path / "a.jsonl", records), length=96)
    manifest = made(config)
    unique = {(r["prompt"], r["chosen"], r["rejected"]) for r in records}
    wanted = {(shown(q, y), shown(q, n), f"{y}<|im_end|>", f"{n}<|im_end|>") for q, y, n in unique}
    found = pairs_in(config)
    assert (len(found), set(found)) == (len(unique), wanted)

    counts = [manifest.counts[split]["a"] for split in ("train", "validation")]
    rows = rows_in(config)
    assert manifest.sample == "pairs"
    assert sum(one.documents for one in counts) == len(unique)
    assert sum(one.tokens for one in counts) == sum(len(row["tokens"]) for row in rows)
    supervised = sum(end - begin for row in rows for begin, end in spans_of(row))
    assert sum(one.supervised or 0 for one in counts) == supervised
    assert max(len(row["starts"]) for row in rows) >= 4, "several pairs a row"
    assert all(row["doc_id"].count("+") + 1 == len(row["starts"]) // 2 for row in rows)

    form = manifest.format_of_samples
    assert isinstance(form, Pairs)
    reader = reader_of(open_corpus(config.out, manifest, "train", 96, seed=0))
    columns = reader.read(np.arange(reader.num_samples))
    lengths = columns["lengths"].tolist()
    for row, starts, length in zip(rows, columns["starts"].tolist(), lengths, strict=False):
        assert starts == [*row["starts"], *([length] if length < 96 else [])]


def test_one_pair_a_row_and_columns_of_other_names_from_parquet(tmp_path: Path) -> None:
    records = [{"question": f"q{i}", "yes": "y", "no": "n", "messages": []} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    columns = {"prompt": "question", "chosen": "yes", "rejected": "no"}
    path = tmp_path / "a.parquet"
    config = prepared(tmp_path, path, packing=False, columns=columns)
    made(config)
    assert all(len(row["starts"]) == 2 for row in rows_in(config))
    assert {found[0] for found in pairs_in(config)} == {shown(f"q{i}", "y") for i in range(20)}


def test_what_is_no_pair_is_named_by_file_and_line(tmp_path: Path) -> None:
    records = [
        pair("q", "a", "b"),
        pair("q", "same", "same"),
        {"prompt": "q", "completion": "a"},
        {**pair("q", "a", "b"), "rejected": [{"role": "user", "content": "c"}]},
    ]
    path = write_lines(tmp_path / "a.jsonl", records)
    with pytest.raises(CorpusError) as raised:
        made(prepared(tmp_path, path))
    assert f"{path}, line 2: 'chosen' and 'rejected' are the same" in str(raised.value)
    assert f"{path}, line 3: no pair: no 'chosen', only 'prompt', 'completion'" in str(raised.value)
    chat = {"records": "pairs"}
    manifest = made(config_of(tmp_path, path, chat=chat, on_error="quarantine"))
    assert manifest.dropped["quarantined"] == 3
    listed = (tmp_path / "corpus" / "quarantine.jsonl").read_text().splitlines()
    reasons = {json.loads(line)["row"]: json.loads(line)["reason"] for line in listed}
    assert set(reasons) == {"line 2", "line 3", "line 4"}
    assert reasons["line 4"].startswith("rejected: after the messages")


def test_a_pair_that_is_too_long_stops_or_is_counted(tmp_path: Path) -> None:
    records = [pair(f"q{i}", "y", "n") for i in range(9)] + [pair("q", "y" * 40, "n")]
    path = write_lines(tmp_path / "a.jsonl", records)
    with pytest.raises(CorpusError, match=r"line 10: \d+ tokens") as raised:
        made(prepared(tmp_path, path))
    said = f"1 of 10 pairs are longer than chat.length = {LENGTH}, and would take 43 supervised"
    assert said in str(raised.value)
    assert "the oldest turns of their prompts" in str(raised.value)
    manifest = made(prepared(tmp_path, path, too_long="drop"))
    assert manifest.dropped["too_long"] == 1
    assert sum(one["a"].documents for one in manifest.counts.values()) == 9


def test_inspect_and_the_summary_show_pairs_and_damage_is_found(tmp_path: Path) -> None:
    records = [pair("Why?", f"Because {i}.", f"Dunno {i}.") for i in range(9)]
    config = prepared(tmp_path, write_lines(tmp_path / "a.jsonl", records), length=96)
    manifest = made(config)
    report = inspect(config.out)
    assert report.verified
    console = Console(record=True, width=120)
    console.print(render(report))
    show_summary(manifest, config.out, console)
    styled = console.export_text(styles=True)
    assert "\x1b[1;32mBecause" in styled
    assert "\x1b[1;31mDunno" in styled
    assert "pairs / tokens" in styled

    shard = manifest.shards[0]
    table = shard_file.read(Path(config.out) / shard.file)
    vocabulary = manifest.vocabulary
    assert vocabulary is not None
    assert wrong_chats(table, shard, manifest, vocabulary) is None
    starts = [one[:-1] for one in table.column("starts").to_pylist()]
    index = table.schema.get_field_index("starts")
    odd = table.set_column(index, table.schema.field(index), pa.array(starts, pa.list_(pa.int32())))
    assert "no pairs" in str(wrong_chats(odd, shard, manifest, vocabulary))


def test_pairs_are_another_corpus_and_the_same_in_any_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [{**pair(f"question {i}", "yes", "no"), "completion": "yes"} for i in range(60)]
    path = write_lines(tmp_path / "a.jsonl", both)
    chats = made(config_of(tmp_path, path, out=str(tmp_path / "chats")))
    pairs = made(prepared(tmp_path, path))
    assert chats.fingerprint != pairs.fingerprint
    assert "records" not in chats.config["chat"], "as before there were pairs"
    monkeypatch.setattr("manta.corpus.work_units.MIN_UNIT_BYTES", 512)
    config = config_of(tmp_path, path, chat={"records": "pairs"}, out=str(tmp_path / "other"))
    assert made(config).fingerprint == pairs.fingerprint
    assert Manifest.read(config.out).sample == "pairs"

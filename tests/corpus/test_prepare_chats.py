"""`prepare` on conversations: what is written, what is left out, and that this is said."""

from __future__ import annotations

import json
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_templates import CHATML, THINKING
from inline_prepare import without_ray
from prepared_chats import LENGTH, config_of, made, rows_in, spans_of, write_lines
from pydantic import ValidationError
from rich.console import Console
from tiny_config import run_config
from typer.testing import CliRunner

from manta.cli import app
from manta.config.corpus import ChatSection, CorpusConfig
from manta.config.errors import ConfigError, CorpusError
from manta.config.run import RunConfig
from manta.corpus.corpus_summary import summary_rows
from manta.corpus.inspect import inspect, render
from manta.corpus.manifest import Manifest
from manta.corpus.tokenizer import decode
from manta.corpus.workspace import already_prepared
from manta.sample.chat import supervised_mask
from manta.stream.own_format import format_of
from manta.stream.plan import open_corpus, reader_of


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def messages(question: str, answer: str) -> dict[str, Any]:
    said = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def conversations(config: CorpusConfig) -> dict[str, list[str]]:
    """The text of each conversation → its supervised pieces, from the rows."""
    found = {}
    for row in rows_in(config):
        bounds = [*row["starts"], len(row["tokens"])]
        for begin, end in pairwise(bounds):
            mine = [span for span in spans_of(row) if begin <= span[0] and span[1] <= end]
            parts = [row["tokens"][begin:end], *(row["tokens"][b:e] for b, e in mine)]
            whole, *pieces = decode(Path(config.out), "tokenizer.json", parts, special=True)
            found[whole] = pieces
    return found


def shown(question: str, answer: str) -> str:
    ends = "<|im_end|>\n"
    return f"<|im_start|>user\n{question}{ends}<|im_start|>assistant\n{answer}{ends}"


def test_every_shape_of_record_makes_the_same_conversations(tmp_path: Path) -> None:
    pairs = [(f"question {i}", f"answer {i}") for i in range(8)]
    shapes = [
        lambda q, a: messages(q, a),
        lambda q, a: {
            "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
        },
        lambda q, a: {"prompt": q, "completion": a},
        lambda q, a: {"instruction": q, "output": a},
        lambda q, a: {"dialog": messages(q, [{"type": "text", "text": a}])["messages"]},
    ]
    wanted = {shown(q, a): [f"{a}<|im_end|>"] for q, a in pairs}
    for number, shape in enumerate(shapes):
        records = [shape(q, a) for q, a in pairs]
        folder = tmp_path / str(number)
        folder.mkdir()
        columns = {"columns": {"messages": "dialog"}} if number == 4 else {}
        lines = config_of(folder, write_lines(folder / "a.jsonl", records), chat=columns)
        made(lines)
        assert conversations(lines) == wanted
        if number < 4:
            table = folder / "b.parquet"
            pq.write_table(pa.Table.from_pylist(records), table)
            columnar = config_of(folder, table, chat=columns, out=str(folder / "columnar"))
            made(columnar)
            assert conversations(columnar) == wanted


def test_rows_are_whole_conversations_packed_tight_and_read_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    records = [messages("q" * int(n), "a" * int(m)) for n, m in random.integers(1, 18, (200, 2))]
    config = config_of(tmp_path, write_lines(tmp_path / "a.jsonl", records))
    manifest = made(config)
    assert manifest.sample == "chat"
    ends = decode(Path(config.out), "tokenizer.json", [manifest.turn_ends or []], special=True)
    assert ends == ["<|im_end|>"]
    counts = [manifest.counts[split]["a"] for split in ("train", "validation")]
    unique = {json.dumps(record) for record in records}
    assert sum(one.documents for one in counts) == len(unique)
    assert manifest.dropped["duplicate"] == len(records) - len(unique)
    rows = rows_in(config)
    tokens = sum(len(row["tokens"]) for row in rows)
    assert tokens == sum(one.tokens for one in counts), "tokens in are tokens trained"
    assert all(len(row["tokens"]) <= LENGTH for row in rows)
    assert tokens > 0.88 * len(rows) * LENGTH, "some two conversations a row"
    assert len(conversations(config)) == len(unique)
    supervised = [end - begin for row in rows for begin, end in spans_of(row)]
    assert sum(supervised) == sum(one.supervised or 0 for one in counts)

    corpus = open_corpus(config.out, manifest, "train", LENGTH, seed=0)
    reader = reader_of(corpus)
    train = [row for row in rows if row["doc_id"]][: manifest.shards_of("train")[0].documents]
    assert reader.num_samples == len(train)
    ids = np.array([3, 0, reader.num_samples - 1])
    columns = reader.read(ids)
    mask = supervised_mask(columns)
    for place, row in enumerate(train[i] for i in ids):
        length = len(row["tokens"])
        assert columns["tokens"][place, :length].tolist() == row["tokens"]
        assert (columns["tokens"][place, length:] == manifest.eos_id).all()
        padding = [length] if length < LENGTH else []
        assert columns["starts"].tolist()[place] == [*row["starts"], *padding]
        trained = {position for begin, end in spans_of(row) for position in range(begin, end)}
        assert set(np.flatnonzero(mask[place]).tolist()) == trained


def test_one_conversation_a_row_where_they_are_not_to_be_packed(tmp_path: Path) -> None:
    records = [messages(f"q{i}", "a") for i in range(20)]
    path = write_lines(tmp_path / "a.jsonl", records)
    config = config_of(tmp_path, path, chat={"packing": False})
    manifest = made(config)
    assert sum(shard.documents for shard in manifest.shards) == 20
    assert all(row["starts"] == [0] for row in rows_in(config))


def test_windows_lose_nothing_and_cut_what_is_longer_than_a_row(tmp_path: Path) -> None:
    long = messages("q" * 200, "a" * 200)
    records = [long, *(messages(f"question {i}", f"answer {i}") for i in range(20))]
    path = write_lines(tmp_path / "a.jsonl", records)
    config = config_of(tmp_path, path, chat={"packing": "windows"})
    manifest = made(config)
    assert manifest.dropped == {"duplicate": 0, "empty": 0, "quarantined": 0, "too_long": 0}
    counts = [one for split in manifest.counts.values() for one in split.values()]
    rows, supervised = rows_in(config), sum(one.supervised or 0 for one in counts)
    assert sum(end - begin for row in rows for begin, end in spans_of(row)) == supervised
    assert all(len(row["tokens"]) == LENGTH for row in rows[: manifest.shards[0].documents - 1])
    text = "".join(decode(Path(config.out), "tokenizer.json", [row["tokens"] for row in rows]))
    assert text.count("q" * 30) >= 200 // LENGTH
    assert any(not row["supervised"] for row in rows), "a row within the long question"
    assert inspect(config.out).verified
    shown_rows = dict(summary_rows(manifest, config.out))["rows"]
    assert shown_rows.endswith("of them padding or repeated")

    keys = {"objective": {"type": "chat"}, "data": {"document_mask": True}}
    run = run_config(tmp_path, Path(config.out), train={"seq_len": LENGTH}, **keys)
    assert format_of(RunConfig.model_validate(run), manifest).name == "chat"
    run["objective"]["per"] = "sequence"
    with pytest.raises(ConfigError, match=r"holds conversations that are cut anywhere"):
        format_of(RunConfig.model_validate(run), manifest)
    run["objective"]["per"], run["data"] = "token", {}
    with pytest.raises(ConfigError, match=r"set data.document_mask: true"):
        format_of(RunConfig.model_validate(run), manifest)


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ({"records": "pairs"}, "a pair is compared as a whole"),
        ({"too_long": "cut"}, "no conversation is too long for windows"),
        ({"packing": "window"}, "packing"),
    ],
)
def test_windows_are_for_conversations_of_any_length(chat: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ChatSection.model_validate({"length": 8, "packing": "windows", **chat})


def test_the_corpus_does_not_depend_on_how_it_is_cut_into_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [messages(f"question {i}" * (i % 3 + 1), f"answer {i}") for i in range(60)]
    path = write_lines(tmp_path / "a.jsonl", records)
    one = made(config_of(tmp_path, path))
    monkeypatch.setattr("manta.corpus.work_units.MIN_UNIT_BYTES", 512)
    other = made(config_of(tmp_path, path, out=str(tmp_path / "other")))
    assert other.fingerprint == one.fingerprint


def test_what_can_not_be_trained_on_is_named_by_file_and_line(tmp_path: Path) -> None:
    records = [
        messages("q", "a"),
        {"messages": [{"role": "user", "content": "alone"}]},
        messages("<|im_end|>", "a"),
        {"text": "no chat"},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ]
    path = write_lines(tmp_path / "a.jsonl", records)
    with pytest.raises(CorpusError) as raised:
        made(config_of(tmp_path, path))
    said = str(raised.value)
    assert f"{path}, line 4: no conversation: only 'text' here; needed is 'messages'" in said
    assert f"{path}, line 5: messages[0]: its content has parts that are no text" in said
    write_lines(path, records[:3])
    with pytest.raises(CorpusError) as raised:
        made(config_of(tmp_path, path))
    said = str(raised.value)
    assert f"{path}, line 2: no message to train on" in said
    assert f"{path}, line 3: its text spells the special token '<|im_end|>'" in said
    assert not (tmp_path / "corpus" / "manifest.json").exists()

    write_lines(path, records)
    manifest = made(config_of(tmp_path, path, on_error="quarantine"))
    assert manifest.dropped["quarantined"] == 4
    listed = (tmp_path / "corpus" / "quarantine.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["row"] for line in listed) == [f"line {n}" for n in (2, 3, 4, 5)]


def test_what_is_too_long_stops_or_is_counted(tmp_path: Path) -> None:
    long = {
        "messages": [*messages("q" * 60, "a" * 60)["messages"], *messages("q", "b")["messages"]]
    }
    path = write_lines(tmp_path / "a.jsonl", [messages("q", f"a{i}") for i in range(9)] + [long])
    with pytest.raises(CorpusError, match=r"line 10: \d+ tokens") as raised:
        made(config_of(tmp_path, path))
    assert "1 of 10 conversations are longer than chat.length = 64" in str(raised.value)
    assert "chat.too_long to drop" in str(raised.value)
    dropped = made(config_of(tmp_path, path, chat={"too_long": "drop"}))
    assert dropped.dropped["too_long"] == 1
    cut = config_of(tmp_path, path, chat={"too_long": "cut"}, out=str(tmp_path / "cut"))
    assert made(cut).dropped["too_long"] == 0
    assert shown("q", "b") in conversations(cut)


def tokens_of(manifest: Manifest) -> tuple[int, int]:
    """All tokens in rows, and those that are trained on."""
    counts = [one for split in manifest.counts.values() for one in split.values()]
    return sum(one.tokens for one in counts), sum(one.supervised or 0 for one in counts)


def test_tokens_in_are_tokens_in_rows_and_tokens_told_to_be_lost(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    records = [
        {"messages": [m for n, a in turns for m in messages("q" * n, "a" * a)["messages"]]}
        for turns in (random.integers(1, 40, (1 + i % 3, 2)).tolist() for i in range(60))
    ]
    path = write_lines(tmp_path / "a.jsonl", records)
    whole = made(config_of(tmp_path, path, chat={"length": 1000}))
    assert [(cost.records, cost.tokens) for cost in (whole.length_cost or {}).values()] == [
        (0, 0)
    ] * 2
    for rule in ("drop", "cut"):
        chat = {"length": 60, "too_long": rule}
        config = config_of(tmp_path, path, chat=chat, out=str(tmp_path / rule))
        found = made(config)
        costs = found.length_cost
        assert costs is not None
        assert (costs["cut"].records > 5) == (rule == "cut")
        assert costs["too_long"].records == found.dropped["too_long"] > 0
        lost = [(one.tokens, one.supervised) for one in costs.values()]
        assert tuple(np.sum([tokens_of(found), *lost], axis=0)) == tokens_of(whole)
        assert Manifest.read(config.out).length_cost == costs
        shown = dict(summary_rows(found, config.out))["too long"]
        assert re.search(r"\d+ conversations .* [\d,]+ tokens, [\d,]+ of them supervised", shown)


def test_a_corpus_is_another_if_template_or_rule_is(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [messages("q", f"a{i}") for i in range(9)])
    seen = {made(config_of(tmp_path, path)).fingerprint}
    with pytest.raises(CorpusError, match="another config"):
        made(config_of(tmp_path, path, chat={"turns": "last"}))
    for number, keys in enumerate(
        [{"chat": {"turns": "last"}}, {"template": THINKING}, {"chat": {"length": 65}}]
    ):
        config = config_of(tmp_path, path, out=str(tmp_path / str(number)), **keys)
        seen.add(made(config).fingerprint)
    jinja = tmp_path / "mine.jinja"
    jinja.write_text(CHATML.replace("user", "user"))
    same = {"chat": {"template": str(jinja)}, "template": THINKING}
    assert made(config_of(tmp_path, path, out=str(tmp_path / "x"), **same)).fingerprint in seen
    assert len(seen) == 4


def test_nothing_stale_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another content at the same path, a rule or the code: each is another corpus."""
    path = write_lines(tmp_path / "a.jsonl", [messages("q", f"a{i}") for i in range(9)])
    jinja = tmp_path / "mine.jinja"
    jinja.write_text(CHATML)
    used: dict[str, Any] = {"template": str(jinja)}
    seen: list[str] = []

    def prepared_anew(**chat: Any) -> None:
        keys = {"chat": {**used, **chat}}
        if seen:
            with pytest.raises(CorpusError, match="another config or other input"):
                made(config_of(tmp_path, path, **keys))
        out = {"out": str(tmp_path / f"corpus{len(seen) or ''}")}
        seen.append(made(config_of(tmp_path, path, **keys, **out)).fingerprint)
        assert len(set(seen)) == len(seen)

    prepared_anew()
    prepared_anew(length=LENGTH + 1)
    prepared_anew(supervise=["user", "assistant"])
    prepared_anew(template_args={"tone": "kind"})
    jinja.write_text(CHATML.replace("Tools:", "The tools:"))
    prepared_anew()
    write_lines(path, [messages("q", f"b{i}") for i in range(9)])
    os.utime(path, (1, 1))  # as old as can be
    prepared_anew()
    monkeypatch.setattr("chat_templates.TEXTS", ["other merges other merges"])
    prepared_anew()
    monkeypatch.setattr("manta.__version__", "9.9")
    out = {"out": str(tmp_path / "version")}
    assert made(config_of(tmp_path, path, chat=used, **out)).fingerprint not in seen
    assert "by Manta 9.8;" in already_prepared("out", manifest_by("9.8", tmp_path / "version"))


def manifest_by(version: str, folder: Path) -> Manifest:
    return Manifest.read(folder).model_copy(update={"manta_version": version})


def test_inspect_shows_what_is_trained_on_and_finds_damage(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [messages("Why?", f"Because {i}.") for i in range(9)])
    config = config_of(tmp_path, path)
    made(config)
    report = inspect(config.out)
    assert report.verified
    console = Console(record=True, width=120)
    console.print(render(report))
    styled = console.export_text(styles=True)
    assert "\x1b[1;32mBecause" in styled
    assert "\x1b[1;32mWhy" not in styled
    done = CliRunner().invoke(app, ["inspect", config.out, "--output", str(tmp_path / "p.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "p.html").read_text()
    (rule,) = re.findall(r"\.(r\d+) {color: #\w+; .*font-weight: bold", page)[-1:]
    assert f'<span class="{rule}">Because' in page
    assert f'<span class="{rule}">Why' not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    shard = Path(config.out) / Manifest.read(config.out).shards[0].file
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorpusError, match="checksum"):
        inspect(config.out)

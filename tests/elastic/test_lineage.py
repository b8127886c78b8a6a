"""From an exported model back to the files that it was trained on, and from a file forward."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from inline_prepare import prepared_corpus
from tiny_config import SEQ_LEN, STEP, run_config
from typer.testing import CliRunner
from whole_runs import train_whole

from manta import cli
from manta.config import RunConfig
from manta.config.errors import RunError
from manta.corpus.lineage.origin import Origin
from manta.corpus.manifest import Manifest
from manta.elastic.checks.fork_run import fork_run
from manta.elastic.checks.preflight import check
from manta.record.audit_log import EXPORTED, add_entry
from manta.sample import shard_file
from manta.show.lineage.file_uses import uses_of
from manta.show.lineage.lineage_lines import lineage_lines
from manta.show.lineage.seen_documents import seen_in
from manta.show.lineage.trace import trace
from manta.storage.run_folder import LINEAGE
from manta.stream.document_lengths import document_bounds
from manta.stream.plan import local_stream
from manta.train.export import export

STEPS, FORKED = 12, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a run on it, its fork, which trained on, and the fork's exported model."""
    folder = tmp_path_factory.mktemp("lineage")
    prepared_corpus(folder)
    config = run_config(
        folder / "runs",
        folder / "corpus",
        run={"name": "base"},
        checkpoint={"at": [FORKED * STEP], "keep": 2},
        wandb={"mode": "disabled"},
    )
    train_whole(check(RunConfig.model_validate(config)))
    fork_run(folder / "runs" / "base", FORKED, "child", ["optimizer.weight_decay=0.2"])
    export(folder / "runs" / "base", folder / "model")
    add_entry(folder / "runs" / "base", EXPORTED, {"to": str(folder / "model"), "step": None})
    return folder


def run(*words: Any) -> str:
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_model_leads_to_its_run_its_corpus_and_its_files(folder):
    graph = trace(str(folder / "model"))
    assert [node.kind for node in graph.nodes.values()][:4] == ["model", "run", "corpus", "source"]
    assert len(graph.of_kind("file")) == 60
    manifest = Manifest.read(folder / "corpus")
    [corpus] = graph.of_kind("corpus")
    assert corpus.facts["fingerprint"] == manifest.fingerprint
    lines = lineage_lines(graph)
    assert lines[0] == f"model {folder / 'model'}"
    assert f"  step {STEPS} of run {folder / 'runs' / 'base'}" in lines
    assert "        … and 55 more files (--json has all)" in lines
    assert json.loads(run("lineage", folder / "model", "--json"))["root"] == graph.root


def test_files_of_equal_content_are_all_listed(tmp_path):
    prepared_corpus(tmp_path / "b")
    origin = Origin.read(
        tmp_path / "b" / "corpus", Manifest.read(tmp_path / "b" / "corpus").fingerprint
    )
    [source] = origin.sources
    twin = source.files[0].model_copy(update={"path": "a copy of it"})
    changed = source.model_copy(update={"files": [*source.files, twin]})
    origin.model_copy(update={"sources": [changed]}).write(tmp_path / "b" / "corpus")
    files = trace(str(tmp_path / "b" / "corpus")).of_kind("file")
    assert len(files) == len(source.files) + 1
    assert "a copy of it" in {file.name for file in files}


def test_what_is_elsewhere_now_is_told(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    moved = tmp_path / "model" / LINEAGE
    moved.write_text(moved.read_text().replace('"step": 12', '"step": 11'))
    with pytest.raises(RunError, match=r"lineage\.json: can't be read: its seal doesn't match"):
        trace(str(tmp_path / "model"))
    with pytest.raises(RunError, match=r"no run .*, no corpus .* and no model that says"):
        trace(str(tmp_path))


def test_a_file_leads_to_the_runs_that_used_it(folder, tmp_path):
    file = folder / "documents" / "007.txt"
    graph = uses_of(str(file), str(folder / "runs"))
    [used] = graph.of_kind("run")
    assert used.name == str(folder / "runs" / "base")
    assert [node.name for node in graph.of_kind("model")] == [str(folder / "model")]
    (tmp_path / "a copy").write_bytes(file.read_bytes())
    again = uses_of(str(tmp_path / "a copy"), str(folder / "runs"))
    assert again.links == graph.links
    (tmp_path / "other").write_text("another text")
    assert not uses_of(str(tmp_path / "other"), str(folder / "runs")).of_kind("run")
    page = tmp_path / "page.html"
    run("lineage", folder / "runs", "--of", file, "--output", page)
    assert str(folder / "runs" / "base") in page.read_text()


def steps_with(folder: Path, doc_id: str) -> list[int]:
    """The steps whose batches have a token of a document, by what the stream delivers."""
    checked = check(RunConfig.model_validate(load_config(folder)))
    corpus = checked.corpus
    manifest = Manifest.read(folder / "corpus")
    names = [
        name
        for shard in manifest.shards_of("train")
        for name in shard_file.read(folder / "corpus" / shard.file).column("doc_id").to_pylist()
    ]
    bounds = document_bounds(str(folder / "corpus"), manifest, "train")
    begin, end = bounds[names.index(doc_id) :][:2]
    samples = {place // SEQ_LEN for place in range(begin, end)}
    stream = local_stream(corpus, checked.schedule, cursor=0, rank=0, world_size=1)
    return [batch.step.number for batch in stream if samples & set(batch.ids.tolist())]


def load_config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "runs" / "base" / "config.yaml").read_text())


def test_forget_tells_steps_checkpoints_and_models_and_leaves_the_others_as_they_are(
    folder, tmp_path
):
    manifest = Manifest.read(folder / "corpus")
    texts = {
        path: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in sorted((folder / "documents").glob("*.txt"))
    }
    seen = {name: seen_in(str(folder / "runs"), [name])[0] for name in list(texts.values())[:12]}
    expected = {}
    for name in seen:
        try:
            expected[name] = steps_with(folder, name)
        except ValueError:
            expected[name] = []  # not in the train split
    assert {name: one.steps.get(name, []) for name, one in seen.items()} == expected
    late = max((steps[0], name) for name, steps in expected.items() if steps)
    first, name = late
    kept = sorted(path.name for path in (folder / "runs/base/checkpoints").iterdir())
    steps = [int(one.rpartition("-")[2]) for one in kept]
    assert steps == [FORKED, STEPS]
    assert first > FORKED
    assert seen[name].checkpoints == kept[1:]
    assert seen[name].models == [str(folder / "model")]

    path = next(path for path, each in texts.items() if each == name)
    new = tmp_path / "without"
    found = json.loads(
        run("forget", folder / "corpus", path, "--runs", folder / "runs", "--out", new, "--json")
    )
    assert found["runs"][0]["steps"] == {name: expected[name]}
    made = Manifest.read(new)
    assert found["corpus"]["fingerprint"] == made.fingerprint
    CliRunner().invoke(cli.app, ["inspect", str(new)], catch_exceptions=False)

    def held(corpus: Path) -> list[tuple[str, str]]:
        tables = [(s.file, shard_file.read(corpus / s.file)) for s in Manifest.read(corpus).shards]
        return [(file, one) for file, t in tables for one in t.column("doc_id").to_pylist()]

    assert held(new) == [each for each in held(folder / "corpus") if each[1] != name]
    before, after = (m.counts["train"]["made"] for m in (manifest, made))
    assert before.documents - after.documents == 1
    assert before.bytes - after.bytes == path.stat().st_size
    assert made.tokens_of("train") == after.tokens
    assert made.dropped["forgotten"] == 1
    [parent] = [n for n in trace(str(new)).of_kind("corpus") if n.name != str(new)]
    assert parent.facts["fingerprint"] == manifest.fingerprint

"""From an exported model back to the files that it was trained on, and from a file forward."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from inline_prepare import prepared_corpus
from tiny_config import STEP, run_config
from typer.testing import CliRunner
from whole_runs import train_whole

from manta import cli
from manta.config import RunConfig
from manta.config.errors import RunError
from manta.corpus.manifest import Manifest
from manta.elastic.checks.fork_run import fork_run
from manta.elastic.checks.preflight import check
from manta.record.audit_log import EXPORTED, add_entry
from manta.show.lineage.file_uses import uses_of
from manta.show.lineage.lineage_lines import lineage_lines
from manta.show.lineage.trace import trace
from manta.storage.run_folder import LINEAGE
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

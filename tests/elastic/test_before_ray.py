"""What can't work is refused before Ray is started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command
import copied
import pytest
from ray_head import free_port
from tiny_config import run_config, write_yaml

from manta.config import RunConfig, load
from manta.config.errors import RunError
from manta.corpus.manifest import Manifest
from manta.elastic.checks import machine
from manta.record.run_record import RunRecord

ROOT = Path(__file__).parents[2]


@pytest.fixture
def refused(copies: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that must be refused before Ray starts; returns its message.

    A run has no use of Ray before that; the space of a sweep has its samplers, and while a model is
    tried Ray is imported.
    """
    monkeypatch.chdir(tmp_path)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "MANTA_CACHE": str(tmp_path)}

    def run(*arguments: object, imported: bool = False, silent: bool = False) -> str:
        errors = tmp_path / "errors"
        with errors.open("w") as file:
            words = ["ray manta.cluster.embedded", *map(str, arguments)]
            process = copied.start(command.noting, *words, environment=environment, stderr=file)
            stdout, _ = process.communicate(timeout=300)
        stderr = errors.read_text()
        assert process.returncode == 1, stderr
        assert "starting Ray" not in stdout
        said = "" if silent else f"checking {arguments[1]} …\n"
        ray = imported or arguments[0] == "sweep"
        assert stdout.endswith("['ray']\n" if ray else f"{said}[]\n")
        return stderr

    return run


@pytest.fixture
def config(tmp_path: Path, make_corpus: Callable[..., Any]) -> Path:
    """A run's file, of the model and corpus that all tests share."""
    make_corpus(tmp_path / "corpus", {"train": [[400]]}, vocab_size=61)
    return write_yaml(tmp_path / "run.yaml", run_config(tmp_path / "runs", tmp_path / "corpus"))


@pytest.fixture
def finished(config: Path, tmp_path: Path) -> None:
    """The record of that run, finished."""
    manifest = Manifest.read(tmp_path / "corpus")
    record = RunRecord.open(load(config, RunConfig), manifest, total_steps=12, total_tokens=1344)
    record.finish("finished", reason="", final={})
    record.close()


def test_more_cpus_than_this_machine_has(refused: Callable[..., str], config: Path) -> None:
    cpus = os.cpu_count()
    message = refused("train", config, "scaling.resources_per_worker.CPU=1000")
    assert f"scaling.min = 2 workers need 2000 CPU, but this machine has {cpus}" in message


@pytest.mark.skipif(machine.at_most().get("GPU") != 0, reason="this machine has, or may have, GPUs")
def test_a_gpu_that_is_not_there(refused: Callable[..., str], config: Path) -> None:
    message = refused("train", config, "scaling.resources_per_worker={GPU: 1}")
    assert "scaling.min = 2 workers need 2 GPU, but this machine has 0" in message


def test_also_for_a_sweep(refused: Callable[..., str], config: Path, tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text("space = {'run.seed': 1}\n")
    sweep = {
        "sweep": {"name": "s"},
        "base": "run.yaml",
        "space": "./space.py",
        "overrides": ["scaling.resources_per_worker.CPU=1000"],
        "metric": "loss",
    }
    message = refused("sweep", write_yaml(tmp_path / "sweep.yaml", sweep))
    assert "scaling.min = 2 workers need 2000 CPU" in message


def test_another_config_of_a_run_that_is_there(
    refused: Callable[..., str], config: Path, finished: None
) -> None:
    message = refused("train", config, "schedule.lr=0.5")
    assert "this run was started with another config:\n  schedule.lr: 0.001 → 0.5\n" in message
    assert "choose another run.name" in message


def test_another_corpus_under_a_run_that_is_there(
    refused: Callable[..., str],
    config: Path,
    finished: None,
    tmp_path: Path,
    make_corpus: Callable[..., Any],
) -> None:
    make_corpus(tmp_path / "other", {"train": [[500]]}, vocab_size=61)
    assert "was started on another corpus" in refused("train", config, f"corpus={tmp_path}/other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sources.0.paths=[there.txt, not-there/*.txt]", "source 'a': not-there/*.txt: no such"),
        ("tokenizer={path: not-there/tokenizer.json}", "not-there/tokenizer.json"),
    ],
)
def test_sources_and_tokenizers_that_are_not_there(
    refused: Callable[..., str], tmp_path: Path, change: str, message: str
) -> None:
    (tmp_path / "there.txt").write_text("some text")
    source = {"name": "a", "format": "text", "paths": ["there.txt"]}
    corpus = {"out": "out", "sources": [source], "tokenizer": {"vocab_size": 300}}
    path = write_yaml(tmp_path / "corpus.yaml", corpus)
    assert message in refused("prepare", path, change)


@pytest.mark.parametrize("out", ["file", "file/corpus", "/proc/corpus"])
def test_a_folder_that_cannot_be_written_to(
    refused: Callable[..., str], config: Path, tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").write_text("some text")
    source = {"name": "a", "format": "text", "paths": ["file"]}
    corpus = {"out": out, "sources": [source], "tokenizer": {"vocab_size": 300}}
    (tmp_path / "space.py").write_text("space = {'run.seed': 1}\n")
    sweep = {"sweep": {"name": "s", "storage": out}, "base": "run.yaml", "space": "./space.py"}
    sweep["metric"] = "loss"
    for arguments, key in (
        (["prepare", write_yaml(tmp_path / "corpus.yaml", corpus)], "out"),
        (["train", config, f"run.storage={out}"], "run.storage"),
        (["sweep", write_yaml(tmp_path / "sweep.yaml", sweep)], "sweep.storage"),
    ):
        message = refused(*arguments)
        assert f"{key} = '{tmp_path / out}': can't be written to" in message


@pytest.mark.parametrize("out", ["file", "file/model", "/proc/some/model"])
def test_a_folder_that_an_export_cannot_make(
    refused: Callable[..., str], tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").write_text("some text")
    why = ": exists already" if out == "file" else ": can't be made ("
    assert f"error: {out}{why}" in refused("export", "not-there", out, silent=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_elses(
    refused: Callable[..., str], config: Path, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir(mode=0o555)
    assert "can't be written to" in refused("train", config, f"run.storage={tmp_path}/theirs/runs")


def test_sizes_that_the_model_itself_refuses(
    refused: Callable[..., str], config: Path, tmp_path: Path
) -> None:
    message = refused("train", config, "model.sizes.num_attention_heads=3", imported=True)
    assert "model.sizes: llama refuses them: The hidden size (32) is not a multiple of" in message
    heads = "tune.grid_search([2, 3])"
    space = f"from ray import tune\nspace = {{'model.sizes.num_attention_heads': {heads}}}\n"
    (tmp_path / "space.py").write_text(space)
    sweep = {"sweep": {"name": "s"}, "base": "run.yaml", "space": "./space.py", "metric": "loss"}
    message = refused("sweep", write_yaml(tmp_path / "sweep.yaml", sweep))
    assert "error: trial " in message
    assert "llama refuses them" in message


# The first sign of life.

FIRST = """
import sys
class Noted:
    def __init__(self, stream): self.stream, self.first = stream, None
    def write(self, text):
        if self.first is None:
            heavy = ("numpy", "pyarrow", "ray", "torch", "transformers")
            self.first = [name for name in heavy if name in sys.modules]
        return self.stream.write(text)
    def __getattr__(self, name): return getattr(self.stream, name)
sys.stdout = noted = Noted(sys.stdout)
from manta import cli
try:
    cli.main()
finally:
    print(noted.first)
"""


@pytest.mark.parametrize("command", ["prepare", "train", "sweep", "submit"])
def test_a_command_speaks_before_it_imports(config: Path, tmp_path: Path, command: str) -> None:
    source = {"name": "a", "format": "text", "paths": ["not-there"]}
    corpus = {"out": "out", "sources": [source], "tokenizer": {"vocab_size": 300}}
    (tmp_path / "space.py").write_text("space = {'run.seed': 1}\n")
    sweep = {"sweep": {"name": "s"}, "base": "run.yaml", "space": "./space.py", "metric": "loss"}
    sweep["overrides"] = ["corpus=not-there"]
    nobody = f"http://127.0.0.1:{free_port()}"
    arguments = {
        "prepare": [write_yaml(tmp_path / "corpus.yaml", corpus)],
        "train": [config, "corpus=not-there"],
        "sweep": [write_yaml(tmp_path / "sweep.yaml", sweep)],
        "submit": [config, "--address", nobody],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", FIRST, command, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "platform")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == f"checking {arguments[0]} …\n[]\n"
    assert (nobody if command == "submit" else "not-there") in done.stderr


# What a machine has at most.


@pytest.mark.parametrize(
    ("devices", "visible", "gpus"),
    [
        ({"/dev/nvidia[0-9]*": 4}, None, 4),
        ({"/dev/nvidia[0-9]*": 4}, "0,2", 2),
        ({"/dev/nvidia[0-9]*": 4}, "", 0),
        ({"/dev/nvidia[0-9]*": 1}, "0,1,2", 1),
        ({}, None, 0),
        ({"/dev/kfd": 1}, None, None),  # another maker's are not counted, so nothing is refused
    ],
)
def test_gpus_are_counted_as_ray_may_count_them(
    monkeypatch: pytest.MonkeyPatch, devices: dict[str, int], visible: str | None, gpus: int | None
) -> None:
    monkeypatch.setattr(machine.glob, "glob", lambda pattern: ["x"] * devices.get(pattern, 0))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.at_most().get("GPU") == gpus


def test_what_ray_is_told_to_have_is_left_to_ray(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    section = {"min": 3, "resources_per_worker": {"CPU": 1000}}
    config = RunConfig.model_validate(run_config(tmp_path, tmp_path, scaling=section))
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 3000}')
    machine.check_machine(config)
    monkeypatch.delenv("RAY_OVERRIDE_RESOURCES")
    with pytest.raises(RunError, match="need 3000 CPU"):
        machine.check_machine(config)


def test_a_resource_of_ones_own_is_left_to_ray(tmp_path: Path) -> None:
    section = {"resources_per_worker": {"CPU": 0, "my_disk": 5}}
    machine.check_machine(RunConfig.model_validate(run_config(tmp_path, tmp_path, scaling=section)))

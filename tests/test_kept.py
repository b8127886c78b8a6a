"""A corpus, a run, its checkpoint and a snapshot of an older version are read, and go on exactly.

A change that breaks one of these breaks what users have. `tests/e2e/test_kept_sweep.py` does the
same for a sweep.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic import digest_of
from file_vault import FileVault
from kept import check_came_to, expected, read_of, unpack
from plain_runs import engine_of
from small_runs import opened
from tokenizers import Tokenizer
from whole_runs import train_whole

from manta import api
from manta.config import load as load_config
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest
from manta.corpus.tokenizer import of_corpus
from manta.elastic.checks.preflight import check
from manta.elastic.checks.verifying import verify_run
from manta.state.checkpoint_files import newest
from manta.state.loading import load
from manta.state.vault import Stamp
from manta.train.engine import Engine

RUN = Path("runs/run")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("kept.tar.xz", tmp_path_factory.mktemp("kept"))


@pytest.fixture
def home(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that the older version left, as the current folder."""
    shutil.copytree(unpacked, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def then(home: Path) -> Any:
    """What the older version came to."""
    return expected(home)


def kept_config() -> RunConfig:
    return load_config(RUN / "config.yaml", RunConfig)


def test_a_corpus_is_read_as_before(then: Any) -> None:
    found = dict(then["corpus"])
    text, encoded = found.pop("text"), found.pop("encoded")
    assert read_of(check(kept_config())) == found
    files = of_corpus("corpus", Manifest.read("corpus")).files
    assert Tokenizer.from_str(files["tokenizer.json"].decode()).encode(text).ids == encoded


def test_a_corpus_of_manifest_format_1_is_read_as_before(then: Any, tmp_path: Path) -> None:
    corpus = unpack("older_run.tar.xz", tmp_path / "format-1") / "corpus"
    assert json.loads((corpus / "manifest.json").read_text())["format"] == 1
    config = kept_config().model_copy(update={"corpus": str(corpus)})
    assert read_of(check(config)) == then["corpus_of_format_1"]


def state_of(engine: Engine) -> str:
    """A digest of weights and of the optimizer's state."""
    named: dict[str, torch.Tensor] = dict(engine.trained.lm.named_parameters())
    for name, parameter in engine.trained.lm.named_parameters():
        for kind, value in engine.trained.optimizer.state[parameter].items():
            named[f"{name}/{kind}"] = value
    return digest_of(named)


def check_ended(then: Any) -> None:
    """The run is at its end, and all of it is proven."""
    alike = check_came_to(RUN, then["run"], then["arithmetic"])
    if alike:
        engine = engine_of(check(kept_config()))
        load(newest(RUN / "checkpoints"), engine.trained)
        assert digest_of(dict(engine.trained.lm.named_parameters())) == then["run"]["weights"]
    assert verify_run(RUN).consumed.steps == 12


def test_a_run_goes_on_from_its_checkpoint(then: Any) -> None:
    checked = opened(kept_config())
    engine = engine_of(checked)
    load(newest(RUN / "checkpoints"), engine.trained)
    assert state_of(engine) == then["run"]["checkpoint"], "loaded otherwise than it was saved"
    train_whole(checked)
    assert sources() == ["start", "checkpoint"]
    check_ended(then)


def test_a_run_goes_on_from_its_snapshot(then: Any) -> None:
    vault = FileVault(Path("memory"), 0)
    note = json.loads(Path("snapshot/stamp.json").read_text())
    buffer = Path("snapshot/buffer").read_bytes()
    assert vault.free(len(buffer))
    vault.buffer()[: len(buffer)] = buffer
    header = Path("snapshot/header.json").read_bytes()
    vault.commit(Stamp(*note["stamp"]), note["parts"], header)
    train_whole(opened(kept_config()), vault=vault)
    assert sources() == ["start", "snapshot"]
    check_ended(then)


def test_a_sweep_is_compared_as_it_stands(then: Any) -> None:
    compared = {row["name"]: row for row in api.compare("sweeps/tiny").runs.to_pylist()}
    assert {name: row["status"] for name, row in compared.items()} == {
        "t000": "finished",
        "t001": "waiting",
        "t002": "waiting",
    }
    last = then["sweep"]["t000"]["rows"][-1]
    assert (compared["t000"]["tokens"], compared["t000"]["value"]) == (last[1], last[-1])
    assert 0 < compared["t001"]["tokens"] < last[1]


def sources() -> list[str]:
    """From what each worker group of the run went on."""
    return [group["source"] for group in json.loads((RUN / "run.json").read_text())["groups"]]

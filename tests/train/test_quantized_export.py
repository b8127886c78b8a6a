"""A model that is exported in int8 is smaller, loads anywhere, and is told apart by numbers."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from inline_prepare import prepared_corpus
from plain_runs import train
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from manta import cli
from manta.config.errors import ConfigError
from manta.evaluate.model_at_hand import weights_sha256
from manta.record.audit_log import read_log
from manta.train.export import export, generate


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture
def run(checked: Any) -> Path:
    """A run whose model has learned something."""
    found = checked({"schedule.lr": 1e-2})
    found.tracker(console=False).finish("interrupted", reason="")
    train(found)
    return Path(found.run_dir)


def test_without_the_extra_nothing_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ConfigError, match=r"pip install 'manta-train\[int8\]'"):
        export(run, tmp_path / "model", quantize=True)
    assert not (tmp_path / "model").exists()
    folder = export(run, tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "torchao", "quant_type": "x"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"the model in .*plain needs the package torchao"):
        generate(folder, "THE", tokens=2, temperature=0.0, seed=0)


def test_int8_is_smaller_and_nearly_the_same(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="the extra 'int8' is not installed")
    plain, small = export(run, tmp_path / "plain"), tmp_path / "small"
    done = CliRunner().invoke(cli.app, ["export", str(run), str(small), "--quantize", "int8"])
    assert done.exit_code == 0, done.output or done.exception
    said = re.search(r"([\d.]+) times smaller\); KL divergence .* (\S+) nats a token", done.stdout)
    assert said is not None, done.stdout
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (plain, small)]
    assert sizes[0] / sizes[1] == pytest.approx(float(said[1]), abs=0.01)
    assert 0 < float(said[2]) < 1e-2
    assert {path.name for path in small.iterdir()} >= {path.name for path in plain.iterdir()}
    first, second = (AutoModelForCausalLM.from_pretrained(folder) for folder in (plain, small))
    row = torch.arange(3, 19)[None]
    with torch.no_grad():
        whole, rounded = first(row).logits, second(row).logits
    assert not torch.equal(whole, rounded)
    torch.testing.assert_close(rounded, whole, rtol=0.05, atol=0.05)
    digests = [weights_sha256(lm) for lm in (first, second)]
    assert digests[0] != digests[1] == weights_sha256(AutoModelForCausalLM.from_pretrained(small))
    assert generate(small, "THE", tokens=4, temperature=0.0, seed=0)
    assert read_log(run).entries[-1].facts["quantize"] == "int8"

"""A sweep on a small base: its space file is written by the test."""

from __future__ import annotations

import textwrap

import pytest
import yaml

from manta.config import load_sweep
from manta.tune.base import Base
from manta.tune.space import open_space

RUN = """\
run: {name: base, seed: 7}
corpus: shards
model: {type: llama}
train: {seq_len: 16}
schedule:
  horizon: 1M
  lr: {name: wsd, peak: 0.1, decay: 20%}
  batch: 8
eval: {every: 100K}
"""


class Sweep:
    """A loaded sweep: `config`, `space`, `base` and its `search`."""

    def __init__(self, path):
        self.config = load_sweep(path)
        self.search = self.config.search
        self.space = open_space(self.config)
        self.base = Base.open(self.config, self.space)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Opens a sweep over a space given as Python; keywords are sections of its config."""
    monkeypatch.chdir(tmp_path)

    def opened(space, run=RUN, **sections):
        (tmp_path / "run.yaml").write_text(run)
        (tmp_path / "mine.py").write_text("from ray import tune\n" + textwrap.dedent(space))
        config = {"sweep": {"name": "try"}, "base": "run.yaml", "space": "./mine.py", **sections}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
        return Sweep("sweep.yaml")

    return opened

"""Fixtures for tests of `manta.record` and `manta.show`: a config, a clock, a W&B server, …"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_sweep import decay_fan, plausible_loss, write_sweep
from made_sweep import manifest as make_manifest
from wandb_server import API_KEY, WandbServer

from manta.config import RunConfig
from manta.corpus.manifest import Manifest

__all__ = [
    "_no_credentials",
    "api_key",
    "clock",
    "make_config",
    "manifest",
    "other_manifest",
    "sweep",
    "training_row",
    "wandb_server",
]


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests: no key, no settings, no server of theirs is found."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    # W&B's own telemetry would look for a server elsewhere.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Builds a config with the sections given as keyword arguments; W&B is off."""

    def make(**sections: Any) -> RunConfig:
        data: dict[str, Any] = {
            "run": {"name": "one", "storage": str(tmp_path / "runs")},
            "corpus": "corpora/test",
            "model": {"type": "gpt2", "sizes": {"n_layer": 2}},
            "train": {"seq_len": 10},
            "schedule": {"horizon": 1000, "lr": 0.1, "batch": 1},
            "wandb": {"mode": "disabled"},
        }
        for name, section in sections.items():
            merge = isinstance(section, dict) and isinstance(data.get(name), dict)
            data[name] = {**data[name], **section} if merge else section
        return RunConfig.model_validate(data)

    return make


@pytest.fixture
def manifest() -> Manifest:
    return make_manifest()


@pytest.fixture
def other_manifest() -> Manifest:
    return make_manifest(301)


@pytest.fixture
def training_row() -> Callable[[int], dict[str, Any]]:
    """The row of a step, a pure function of it, with 10 tokens a step."""
    return row_of


def row_of(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": step * 10,
        "loss": 5.0 / step,
        "lr": 1e-3 / step,
        "batch_size": 1,
        "grad_norm": 0.1 * step,
        "tokens_per_s": 1000.0 + step,
        "world_size": 2,
        "epoch": 0,
    }


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A W&B server on this machine, for which there is a key."""
    server = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    yield server
    server.close()


@pytest.fixture
def api_key() -> str:
    return API_KEY


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that has ended: a fan of decays with two seeds."""
    folder = tmp_path_factory.mktemp("sweeps") / "fan"
    return write_sweep(folder, decay_fan(), plausible_loss, question="How long a decay?")

"""A mixture that is proposed by a sweep's folder, and what is refused, with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import manta
from tiny_config import run_config

from manta.config import RunConfig
from manta.config.errors import ConfigError, MantaError, RunError
from manta.config.load import dump
from manta.corpus.manifest import Manifest
from manta.recommend.mixture_search import search_mixture
from manta.record.run_record import RunRecord
from manta.record.sweep_state import SweepState, SweepTrial, write_sweep

SOURCES = ("web", "code")
WEIGHTS = [0.05, 0.2, 0.3, 0.5, 0.6, 0.75, 0.9]


def losses(web: float) -> tuple[float, float]:
    """Losses on web and code of a run with this share of web; their mean is least at 0.506."""
    return 2 + np.exp(-2.0 * web), 1.5 + np.exp(-2.5 * (1 - web))


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: Callable[..., Manifest]) -> tuple[Path, Manifest]:
    """Web of 960 tokens beside code of 240; as much of each to validate."""
    splits = {"train": [[96] * 10, [48] * 5], "validation": [[32], [32]]}
    return tmp_path / "corpus", make_corpus(tmp_path / "corpus", splits, sources=SOURCES)


@pytest.fixture
def swept(tmp_path: Path, corpus: tuple[Path, Manifest]) -> Callable[..., Path]:
    """Records a sweep whose trials have these weights of web, or no mixture for None."""

    def record(weights: Sequence[float | None], *, by_source: bool = True) -> Path:
        folder = tmp_path / "runs" / "sweep"
        trials = []
        for number, web in enumerate(weights):
            name, sections = f"t{number:03d}", {"run": {"name": f"t{number:03d}"}}
            if web is not None:
                sources = {"web": {"weight": web}, "code": {"weight": 1 - web}}
                sections["data"] = {"mixture": {"sources": sources}}
            _record(run_config(folder, corpus[0], **sections), corpus[1], web or 0.5, by_source)
            trials.append(SweepTrial(name=name, status="finished"))
        trials.append(SweepTrial(name="t999", status="failed"))
        folder.mkdir(parents=True, exist_ok=True)
        write_sweep(folder, SweepState(name="sweep", status="finished", trials=trials))
        return folder

    return record


def _record(config: dict[str, Any], manifest: Manifest, web: float, by_source: bool) -> None:
    checked = RunConfig.model_validate(config)
    record = RunRecord.open(checked, manifest, total_steps=4, total_tokens=448)
    (record.run_dir / "config.yaml").write_text(dump(checked))
    found = losses(web)
    named = {f"val_loss/{n}": loss for n, loss in zip(SOURCES, found, strict=True)}
    row = {"step": 4, "tokens": 448, "val_loss": float(np.mean(found))}
    record.add({**row, **(named if by_source else {})})
    record.finish("finished", reason="", final={})
    record.close()


def test_a_mixture_is_proposed_with_what_it_is_expected_to_give(swept: Any) -> None:
    folder = swept(WEIGHTS)
    found = search_mixture(folder)
    assert found.sources == SOURCES
    assert found.proposal.shares[0] == pytest.approx(0.506, abs=0.03)
    assert found.reference[0] == pytest.approx(0.8, abs=0.03)
    assert not found.proposal.within_noise
    assert found.lines()[1].startswith("web")
    assert "predicted loss" in found.lines()[3]
    asked = RunConfig.model_validate(run_config(folder, folder, **found.keys()))
    assert asked.data.mixture is not None
    heavy = search_mixture(folder, {"code": 1})
    assert heavy.proposal.shares[1] > 0.9


def test_the_command_prints_what_a_config_takes(swept: Any) -> None:
    folder = swept(WEIGHTS)
    done = manta("mixture", str(folder), "--towards", "web=1", "--towards", "code=1")
    output = done.communicate()[0]
    assert done.returncode == 0, output
    table, _, keys = output.partition("\n\n")
    assert "90 % interval" in table
    weights = yaml.safe_load(keys)["data"]["mixture"]["sources"]
    assert sum(each["weight"] for each in weights.values()) == pytest.approx(1, abs=1e-3)
    done = manta("mixture", str(folder), "--json")
    assert json.loads(done.communicate()[0])["runs"] == len(WEIGHTS)


def test_epochs_are_kept(swept: Any) -> None:
    found = search_mixture(swept(WEIGHTS), {"code": 1}, tokens=1000, max_epochs=2)
    assert found.epochs is not None
    assert found.epochs[1] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(
    ("weights", "asked", "error", "said"),
    [
        (WEIGHTS[:4], {}, RunError, r"4 trials have finished.* need 5 or more: raise search\.t"),
        ([*WEIGHTS, None], {}, ConfigError, r"t007: its mixture is none, or changes"),
        ([], {}, RunError, r"no trial has finished yet"),
        (WEIGHTS, {"towards": {"math": 1}}, ConfigError, r"--towards: math is no source .* code"),
        (WEIGHTS, {"tokens": 10**6, "max_epochs": 2}, ConfigError, r"--max-epochs = 2: .*raise it"),
        (WEIGHTS, {"tokens": 10**6}, ConfigError, r"give --tokens, .*and --max-epochs together"),
    ],
)
def test_what_is_missing_is_named(
    swept: Any, weights: list[float], asked: Any, error: type[MantaError], said: str
) -> None:
    with pytest.raises(error, match=said):
        search_mixture(swept(weights), **asked)


def test_trials_without_losses_by_source_are_refused(swept: Any) -> None:
    with pytest.raises(RunError, match=r"t000: it has no validation loss of web, code: .*eval"):
        search_mixture(swept(WEIGHTS, by_source=False))

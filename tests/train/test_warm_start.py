"""A run that begins with the weights of another one, by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from inline_prepare import prepared_corpus
from plain_runs import train
from typer.testing import CliRunner

from manta import cli
from manta.config.errors import ConfigError, RunError
from manta.elastic.checks.preflight import absolute, check
from manta.elastic.checks.warm_start import exported_folder

EVERY = 16 * 7 * 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared from text, so that it has a tokenizer to export with a model."""
    return prepared_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture
def base(checked):
    """A run of 12 steps, and its validation loss by step."""
    run = checked(
        {
            "run.name": "base",
            "schedule.lr": 1e-2,
            "checkpoint": {"every": EVERY},
            "eval": {"every": EVERY, "tokens": 4096},
        }
    )
    run.tracker(console=False).finish("interrupted", reason="")  # its record, and its config
    rows = train(run)
    return run, {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}


def begun(checked, name: str, pretrained: str) -> tuple[str, float]:
    """What a run that begins so resolves it to, and its first validation loss."""
    changes = {"run.name": name, "eval": {"every": EVERY, "tokens": 4096}}
    plain = checked(changes).config
    model = plain.model.model_copy(update={"pretrained": pretrained, "type": None, "sizes": {}})
    run = check(absolute(plain.model_copy(update={"model": model})))
    rows = train(run)
    (first,) = (row["val_loss"] for row in rows if "val_loss" in row and row["step"] == 0)
    return str(run.config.model.pretrained), first


def test_it_goes_on_where_the_other_came_to(checked, base) -> None:
    run, losses = base
    where, first = begun(checked, "newest", str(run.run_dir))
    assert where == str(run.run_dir / "exported" / "step-000000000012")
    assert first == pytest.approx(losses[12], rel=1e-6)
    weights = Path(where, "model.safetensors")
    written = weights.stat().st_mtime_ns

    _, again = begun(checked, "again", f"{run.run_dir}@12")
    assert again == first
    assert weights.stat().st_mtime_ns == written, "it is exported once"

    where, earlier = begun(checked, "earlier", f"{run.run_dir}@8")
    assert where.endswith("exported/step-000000000008")
    assert earlier == pytest.approx(losses[8], rel=1e-6)
    assert losses[12] < losses[8] < losses[0]


def test_it_goes_on_from_a_model_of_the_registry(
    checked, base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, losses = base
    monkeypatch.chdir(tmp_path)
    words = ["promote", f"{run.run_dir}@8", "chat@champion", "--without-gate", "a test"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    where, first = begun(checked, "champion", "registry:chat@champion")
    assert where == str(tmp_path / "registry/chat/versions/1/model")
    assert first == pytest.approx(losses[8], rel=1e-6)
    with pytest.raises(ConfigError, match=r"model\.pretrained = 'registry:chat@3': .*no version 3"):
        begun(checked, "none", "registry:chat@3")


def test_a_step_without_a_checkpoint_is_told(checked, base) -> None:
    run, _ = base
    with pytest.raises(RunError, match=r"no such checkpoint; there are those of steps .*8, 12"):
        begun(checked, "none", f"{run.run_dir}@7")
    assert not (run.run_dir / "exported" / "step-000000000007").exists()


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    for text in ("org/model", "org/model@main", str(tmp_path), f"{tmp_path}@3", "s3://b/run@3"):
        assert exported_folder(text) is None

"""What becomes of a corpus when a file of an interrupted attempt, or of a finished one, is damaged.

The corpus is the one that was asked for, to the byte; or it is refused. Never anything else.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from damages import DAMAGES, damaged
from killed_prepare import killed_at, renames_of, small_config

from manta.config.corpus import CorpusConfig
from manta.config.errors import CorpusError
from manta.corpus.inspect import inspect
from manta.corpus.prepare import prepare
from manta.corpus.progress_bar import PrepareProgress

WORK = ".prepare"
FILES = [
    *(f"{WORK}/{name}" for name in ("key.json", "lock")),
    *(f"{WORK}/tokenizer/{name}" for name in ("tokenizer.json", "tokenizer_config.json", "done")),
    *(f"{WORK}/{name}" for name in ("*.scan.npz", "*.sample.json", "train-*.arrow.json")),
    *(f"{WORK}/{name}" for name in ("unit-*[0-9].json", "unit-*.train.arrow")),
    *(f"{WORK}/unit-*.validation.arrow", "train-*.arrow"),
]
FINISHED = ["manifest.json", ".prepared.json", "train-*.arrow", "tokenizer.json"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> CorpusConfig:
    return small_config(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def attempt(source, tmp_path_factory) -> tuple[Path, int]:
    """The corpus as it is made without interruption, and how many files got their names."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, renames_of(source.model_copy(update={"out": str(out)}))


@pytest.fixture(scope="module")
def whole(attempt) -> Path:
    return attempt[0]


@pytest.fixture(scope="module")
def interrupted(source, attempt) -> Path:
    """Killed in the second pass, with shards that are finished and units that are in none."""
    # The last names are those of the files beside the shards, which no attempt had yet.
    assert killed_at(source, int((attempt[1] - 1) * 0.85), "after") == -signal.SIGKILL
    out = Path(source.out)
    for pattern in FILES:
        assert list(out.glob(pattern)), pattern
    return out


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.usefixtures("inline")
def test_a_damaged_leftover(
    source, interrupted, whole, contents, tmp_path, monkeypatch, caplog, pattern, damage
):
    out = tmp_path / "out"
    shutil.copytree(interrupted, out)
    path = sorted(out.glob(pattern))[-1]
    if not damaged(path, damage):
        return
    said: list[str] = []
    monkeypatch.setattr(PrepareProgress, "say", lambda self, text: said.append(text))

    prepare(source.model_copy(update={"out": str(out)}), progress=False)

    assert contents(out) == contents(whole)
    if damage != "missing" and path.name != "lock":
        told = "\n".join([*said, *caplog.messages])
        assert path.name in told or "an interrupted attempt had another config" in told


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FINISHED)
@pytest.mark.usefixtures("inline")
def test_a_damaged_file_of_a_finished_corpus(source, whole, contents, tmp_path, name, damage):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    path = sorted(out.glob(name))[-1]
    if not damaged(path, damage):
        return
    before = contents(out)

    def look() -> None:
        prepare(source.model_copy(update={"out": str(out)}), progress=False)
        inspect(out)

    with pytest.raises(CorpusError, match=str(out)):
        look()

    assert contents(out) == before

"""What two kills in a row, or a full disk, leave of a run: it goes on to the same end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from killed_runs import killed_at
from small_disk import FILLER, SmallDisk, small_disk
from small_runs import config_of, end_of, make_corpus_here, opened
from whole_runs import train_whole

from manta.config import MantaError
from manta.config.run import RunConfig
from manta.elastic.checks.verifying import verify_run
from manta.state.checkpoint_files import whole

# The second of two kills comes while the first one's leftovers are being cleared up, soon after,
# or in the same place again.
TWO_KILLS = {
    "first": [(2, "after"), (3, "before")],
    "early": [(9, "before"), (4, "after")],
    "saving": [(12, "after"), (2, "before")],
    "again": [(13, "before"), (13, "before")],
    "late": [(18, "after"), (5, "after")],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and beside it the runs of all tests."""
    found = tmp_path_factory.mktemp("home")
    with chdir(found):
        make_corpus_here()
    return found


@pytest.fixture(scope="module")
def expected(home: Path) -> Any:
    with chdir(home):
        train_whole(opened(config_of("whole")))
        return end_of(opened(config_of("whole")))


def check_end(config: RunConfig, expected: Any) -> None:
    weights, consumed, curve = end_of(opened(config))
    assert (consumed, curve) == expected[1:]
    assert all(weights[key].equal(expected[0][key]) for key in weights)
    folder = Path(config.run.storage) / config.run.name
    assert verify_run(folder).consumed.steps == 12
    assert not [path for path in folder.rglob("*tmp*") if "wandb" not in path.parts]


@pytest.mark.parametrize("name", TWO_KILLS)
def test_two_kills_in_a_row(home: Path, expected: Any, name: str) -> None:
    with chdir(home):
        for rename, moment in TWO_KILLS[name]:
            killed_at(config_of(name), rename, moment)
        train_whole(opened(config_of(name)))
        check_end(config_of(name), expected)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as found:
        yield found


# Of a checkpoint's 76 KB: none fits, its first file does, and it does but for its last ones.
@pytest.mark.parametrize("room", [0, 2**13, 2**15, 2**16])
def test_a_full_disk_and_a_kill_on_it(
    home: Path, expected: Any, disk: SmallDisk, caplog: pytest.LogCaptureFixture, room: int
) -> None:
    """The run is killed while its files can't be written, and begun anew while they still can't."""
    config = config_of(run={"name": "run", "storage": str(disk.folder), "seed": 3})
    run = disk.folder / "run"

    def fill(engine: Any) -> None:
        step = engine.step

        def filling(batch: Any, **asked: Any) -> Any:
            if batch.step.number == 6:
                disk.fill()
                filler = disk.folder / FILLER
                os.truncate(filler, filler.stat().st_size - room)
            return step(batch, **asked)

        engine.step = filling

    with chdir(home):
        train_whole(opened(config), until=5)
        train_whole(opened(config), until=9, fault=fill)
        assert [path.name[-1] for path in whole(run / "checkpoints")] == ["4"]
        if room == 0:
            with pytest.raises(MantaError, match=r"No space left|free some room"):
                train_whole(opened(config))
        disk.free()
        train_whole(opened(config))
        check_end(config, expected)
    assert "checkpoint of step 8 can't be written" in caplog.text


def test_a_run_that_ends_on_a_full_disk_says_so(home: Path, expected: Any, disk: SmallDisk) -> None:
    config = config_of(run={"name": "run", "storage": str(disk.folder), "seed": 3})

    def fill(engine: Any) -> None:
        disk.fill()

    with chdir(home):
        train_whole(opened(config), until=5)
        checked = opened(config)
        with pytest.raises(MantaError, match=r"free some room"):
            train_whole(checked, fault=fill)
        disk.free()
        train_whole(opened(config))
        check_end(config, expected)
        shutil.rmtree(disk.folder / "run")

"""What becomes of a run when any one of its files is damaged in any way.

The outcome is *exact* (the same weights and ledger as an undisturbed run), *exact from an older
state, told*, or *refused, told*. It is never anything else. Runs are trained once and copied for
each case; what is called is what `manta train` and `manta verify` call.
"""

from __future__ import annotations

import math
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from damages import DAMAGES, damaged
from plain_runs import Fault
from small_runs import STEP, check_goes_on, config_of, end_of, make_corpus_here, opened
from whole_runs import train_whole

from manta.config import load as load_config
from manta.config.errors import RunError
from manta.config.run import RunConfig
from manta.elastic.checks.preflight import Checked, check
from manta.elastic.checks.verifying import verify_run
from manta.show.tracker import Tracker
from manta.state.checkpoint_files import name_of
from manta.train.fork import fork

KILLED = 9


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, an undisturbed run, and one that was killed after step 9."""
    home = tmp_path_factory.mktemp("made")
    with chdir(home):
        make_corpus_here()
        train_whole(opened(config_of("whole")))
        train_whole(opened(config_of()), until=KILLED)
    return home


@pytest.fixture(scope="module")
def expected(made: Path) -> Any:
    with chdir(made):
        return end_of(opened(config_of("whole")))


FILES = [
    *("run.json", "config.yaml", "metrics.jsonl"),
    *(f"ledger.parquet/{0}", f"ledger.parquet/{1}"),
    *(f"checkpoints/1/{name}" for name in ("state.json", ".metadata", "__0_0.distcp")),
    *("checkpoints/1/metrics.jsonl", "checkpoints/0/__0_0.distcp"),
    *("../corpus/manifest.json", "../corpus/train-00000.arrow", "../corpus/tokenizer.json"),
    "../corpus/validation-00000.arrow",
]


def _file(run: Path, name: str) -> Path:
    """A file of a run; a number stands for one of several, in their order."""
    for part in name.split("/"):
        run = sorted(run.iterdir())[int(part)] if part.isdigit() else run / part
    return run


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all, without the undisturbed run, as the current folder."""
    copied = tmp_path / "home"
    shutil.copytree(made, copied, ignore=shutil.ignore_patterns("whole", "report.html"))
    monkeypatch.chdir(copied)
    return copied


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_run(home: Path, expected: Any, name: str, damage: str) -> None:
    path = _file(home / "run", name)
    if damaged(path, damage):
        check_goes_on(config_of(), path, expected)


# ------------------------------------------------------- a run that went back, and a fork

# Bad at step 6: back to step 4, and steps 5 and 6 are passed over.
BAD = Fault((6,), math.nan)


def healed(name: str) -> RunConfig:
    return config_of(name, guards={"nonfinite": "rewind", "rewind": 1})


@pytest.fixture(scope="module")
def went_back(made: Path) -> Any:
    """What becomes of a run that went back; beside it is one that was killed soon after."""
    with chdir(made):
        for name, until in (("healed-whole", None), ("healed", 7)):
            train_whole(opened(healed(name)), fault=BAD)
            train_whole(opened(healed(name)), until=until)
        return end_of(opened(healed("healed-whole")))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_skips(made: Path, went_back: Any, tmp_path: Path, damage: str) -> None:
    for name in ("healed", "corpus"):
        shutil.copytree(made / name, tmp_path / name)
    path = tmp_path / "healed" / "skips.json"
    with chdir(tmp_path):
        if not damaged(path, damage):
            return
        with pytest.raises(RunError, match="skips"):
            verify_run(Path("healed"))
        check_goes_on(healed("healed"), path, went_back)
        if damage == "missing":
            assert verify_run(Path("healed")).consumed.skipped == [5, 6]


FORKED = 8


@pytest.fixture(scope="module")
def forked(made: Path) -> Any:
    """A fork that was not trained, one that was killed, and what becomes of them."""
    with chdir(made):
        for name, until in (("child-whole", None), ("child-begun", FORKED + 1)):
            fork(Path("whole"), FORKED, FORKED * STEP, Path(name))
            train_whole(opened(config_of(name)), until=until)
        fork(Path("whole"), FORKED, FORKED * STEP, Path("child"))
        return end_of(opened(config_of("child-whole")))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["child", "child-begun"])
@pytest.mark.parametrize("file", ["fork.json", "metrics.jsonl"])
def test_a_damaged_file_of_a_fork(
    made: Path, forked: Any, tmp_path: Path, file: str, name: str, damage: str
) -> None:
    for each in (name, "corpus"):
        shutil.copytree(made / each, tmp_path / each)
    path = tmp_path / name / file
    with chdir(tmp_path):
        if damaged(path, damage):
            check_goes_on(config_of(name), path, forked)


def test_an_undisturbed_run_is_verified_and_goes_on(home: Path, expected: Any) -> None:
    assert verify_run(home / "run").consumed.steps == 8
    assert train_whole(opened(config_of())) == []
    found = verify_run(home / "run")
    assert found.consumed.steps == 12
    assert len(found.unchecked) == 1, found.unchecked
    weights, *rest = end_of(check(config_of()))
    assert tuple(rest) == expected[1:]
    assert all(torch.equal(weights[key], expected[0][key]) for key in weights)


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run that a version without checksums and digests left after step 9."""
    with tarfile.open(Path(__file__).parent / "fixtures" / "older_run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return config_of("older", run={"name": "older", "storage": "runs", "seed": 3})


def test_a_run_of_an_older_version_goes_on_and_what_it_cannot_prove_is_listed(
    older: RunConfig,
) -> None:
    run = Path("runs/older")
    change = (run / "config.yaml").read_text().replace("/made/corpus", "corpus")
    (run / "config.yaml").write_text(change)
    assert verify_run(run).consumed.steps == 8
    checked = opened(older)
    train_whole(checked)
    found = verify_run(run)
    assert (found.consumed.steps, found.consumed.unsealed) == (12, 8)
    assert any("steps 1 to 8" in what for what in found.unchecked)
    assert any(f"{name_of(8)}: an older version" in what for what in found.unchecked)
    with pytest.raises(RunError, match=r"optimizer\.eps"):
        opened(config_of("older", run=older.run.model_dump(), optimizer={"eps": 1e-3}))


OTHER = {"schedule": {"horizon": STEP * 12, "lr": 1e-2, "batch": 7}}


def test_a_history_without_its_record_goes_on_only_as_what_it_is(home: Path) -> None:
    (home / "run" / "run.json").unlink()
    with pytest.raises(RunError, match=r"run.json is missing.* 8 steps .*another.*--restart"):
        opened(config_of(**OTHER))
    with pytest.raises(RunError, match="no run here"):
        verify_run(home / "run")
    events = train_whole(opened(config_of()))
    assert any("run.json was missing and is made anew" in event for event in events)
    assert verify_run(home / "run").consumed.steps == 12


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr: 0.001", "lr: 0.002"),
        ("hidden_size: 16", "hidden_size: 18"),
        ("document_mask: false", "document_mask: true"),
    ],
)
def test_a_config_that_was_edited_is_told_and_not_taken(home: Path, old: str, new: str) -> None:
    path = home / "run" / "config.yaml"
    before = path.read_text()
    assert old in before, before
    path.write_text(before.replace(old, new))
    with pytest.raises(RunError, match=r"config.yaml: not the config that the run was trained"):
        verify_run(home / "run")
    with pytest.raises(RunError, match=r"config.yaml: not the config that this run was started"):
        opened(load_config(path, RunConfig))
    checked = opened(config_of())
    with closing_tracker(checked) as tracker:
        messages = [event.message for event in tracker._record.state.events]
    assert any("config.yaml was restored to" in message for message in messages)
    assert path.read_text() == before


@contextmanager
def closing_tracker(checked: Checked) -> Iterator[Tracker]:
    tracker = checked.tracker(console=False)
    try:
        yield tracker
    finally:
        tracker._record.close()


@pytest.mark.parametrize("column", ["world_size", "skipped", "attempt"])
def test_every_column_of_the_ledger_counts(home: Path, column: str) -> None:
    path = _file(home / "run", "ledger.parquet/0")
    table = pq.ParquetFile(path).read()
    rows = table.to_pylist()
    rows[1][column] = not rows[1][column] if column == "skipped" else rows[1][column] + 1
    pq.write_table(table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(RunError, match=f"{path.name}.*changed after it was written"):
        verify_run(home / "run")


def test_a_missing_end_of_the_ledger_is_told_of_a_run_that_nobody_trains(home: Path) -> None:
    _file(home / "run", "ledger.parquet/1").unlink()
    with pytest.raises(RunError, match="step 5 is missing"):
        verify_run(home / "run")

"""A format of the user's own: by the text of a file, for any corpus that names it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from written_configs import RUN

from manta.config import ConfigError, RunConfig, dump, load
from manta.config.errors import RunError
from manta.config.schedule import ScheduleSection
from manta.corpus.manifest import Manifest
from manta.corpus.write import write_corpus
from manta.record.identity import binding_of, check_free_changes_only
from manta.schedule import Schedule
from manta.stream import pipeline
from manta.stream.own_format import format_of
from manta.stream.plan import Corpus, local_stream, open_corpus, order_of

OWN = '''
import numpy as np
import pyarrow as pa

SCALE = 2

class Pairs:
    """Two numbers, the second one scaled when it is read."""

    name = "doubles"
    schema = pa.schema([("a", pa.int64()), ("b", pa.float32())])

    def count(self, split, length):
        return split.rows

    def clock(self, length):
        return 1

    def read(self, shards, ids):
        from manta.sample.rows import rows_of
        found = rows_of(shards, ids, self.schema)
        return {"a": found["a"], "matrix": SCALE * np.stack([found["b"]] * 6, 1).reshape(-1, 2, 3)}
'''
RUN_OF_PAIRS = RUN.replace("model:", "data: {format: ./mine.py:Pairs}\ntrain: {seq_len: 1}\nmodel:")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a config beside the user's file, and a corpus of 37 of its rows."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "run.yaml").write_text(RUN_OF_PAIRS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(folder: Path) -> RunConfig:
    loaded = load("run.yaml", RunConfig)
    table = pa.table({"a": np.arange(37), "b": np.arange(37, dtype=np.float32)})
    from manta.config.own_code import own

    code = own(loaded, "data.format")
    assert code is not None
    write_corpus("shards", {"train": {"x": table.slice(0, 20), "y": table.slice(20)}}, code.made())
    return loaded


def opened(config: RunConfig) -> Corpus:
    manifest = Manifest.read(config.corpus)
    return open_corpus(config.corpus, manifest, "train", 1, 5, format_of(config, manifest))


def schedule(batch: int, samples: int) -> Schedule:
    section = {"horizon": samples, "lr": 1.0, "batch": batch}
    return Schedule.resolve(ScheduleSection.model_validate(section), 1)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_step_has_its_samples_at_any_world_size(config: RunConfig, world_size: int) -> None:
    corpus, plan = opened(config), schedule(7, 100)
    ranks = [
        list(local_stream(corpus, plan, cursor=0, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for number, batches in enumerate(zip(*ranks, strict=True)):
        first = plan.step(number).first_position
        ids = np.concatenate([batch.ids for batch in batches])
        assert ids.tolist() == order_of(corpus).ids(first, first + 7).tolist()
        for batch in batches:
            assert batch.samples["a"].tolist() == batch.ids.tolist()
            assert batch.samples["matrix"].shape == (len(batch.ids), 2, 3)
            assert (batch.samples["matrix"] == 2 * batch.ids[:, None, None]).all()


def test_what_a_block_takes_is_told_by_its_columns(config: RunConfig) -> None:
    """Two integers of ours, one and six floats of the samples."""
    corpus = opened(config)
    (block,) = pipeline.plan.blocks(schedule(7, 21), 0, 0, 1)
    (task,) = pipeline.PlanSource(corpus, [block]).get_read_tasks(1)
    (table,) = task()
    assert task.metadata.size_bytes == table.nbytes == 21 * (8 + 8 + 8 + 6 * 4)


def test_it_travels_as_text(config: RunConfig, folder: Path) -> None:
    corpus = pickle.dumps(opened(config))
    (folder / "mine.py").unlink()
    assert pickle.loads(corpus).format.name == "doubles"
    (folder / "kept.yaml").write_text(dump(config))
    kept = load("kept.yaml", RunConfig)
    assert kept == config
    assert kept.data.format == "mine.py:Pairs"
    assert order_of(opened(kept)).num_samples == 37


def test_another_text_is_another_run(config: RunConfig, folder: Path) -> None:
    (folder / "mine.py").write_text(OWN.replace("SCALE = 2", "SCALE = 3"))
    changed = load("run.yaml", RunConfig)
    assert binding_of(changed, "f") != binding_of(config, "f")
    texts = r"code\.mine\.py: a text of \d+ lines with SHA-256 \w+… → a text of"
    with pytest.raises(RunError, match=texts):
        check_free_changes_only("run", config, changed)
    moved = folder / "elsewhere"
    moved.mkdir()
    (folder / "mine.py").rename(moved / "mine.py")
    (moved / "mine.py").write_text(OWN)
    assert load("run.yaml", RunConfig, ["data.format=elsewhere/mine.py:Pairs"]) == config


def without(line: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "mine.py").write_text(OWN.replace(line, ""))


def configured(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "run.yaml").write_text(RUN_OF_PAIRS.replace(old, new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            configured("mine.py", "none.py"),
            r"run\.yaml:\d+: data\.format = .*none\.py can't",
        ),
        (
            configured(":Pairs", ":Pears"),
            "mine.py defines no 'Pears' at its top level; it defines SCALE, Pairs",
        ),
        (without("import pyarrow as pa\n"), r"mine\.py can't be run: mine\.py:10: NameError"),
        (without("):\n        return split.rows"), r"mine\.py:\d+: not valid Python"),
        (
            without("    def clock(self, length):\n        return 1\n"),
            r"data\.format = 'mine\.py:Pairs' is not a format: it lacks clock",
        ),
        (without('    name = "doubles"\n'), "not a format: it lacks name"),
        (
            configured("data: {format: ./mine.py:Pairs}\n", ""),
            r"samples of .*shards have the format 'doubles'.*set data",
        ),
        (
            configured("seq_len: 1}", "seq_len: 8}"),
            r"seq_len = 8: .*set train\.seq_len to 1",
        ),
    ],
)
def test_a_mistake_is_named(
    config: RunConfig, folder: Path, change: Callable[[Path], Any], message: str
) -> None:
    change(folder)
    with pytest.raises(ConfigError, match=message):
        opened(load("run.yaml", RunConfig))


def test_a_corpus_of_tokens_takes_no_format(config: RunConfig, make_corpus: Any) -> None:
    manifest = make_corpus(Path("tokens"), {"train": [[30]]})
    with pytest.raises(ConfigError, match=r"which is Manta's own: remove data\.format"):
        format_of(config.model_copy(update={"corpus": "tokens"}), manifest)

"""Which samples a mixture's sources have, and what is refused before a run of it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_config import run_config

from manta.config import ConfigError, RunConfig
from manta.corpus.manifest import Manifest
from manta.record.identity import binding_of
from manta.schedule import Schedule
from manta.stream.mixed_sources import mixed_of, mixture_of, source_spans
from manta.stream.plan import local_stream, open_corpus, order_of, reader_of

SEQ = 16
STEP = SEQ * 7


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: Any) -> tuple[Path, Manifest]:
    """Three sources of 25, 11 and 2 whole samples, none of which ends where a sample does."""
    folder = tmp_path_factory.mktemp("mixed") / "corpus"
    layout = [[100, 201, 107], [90, 91], [40]]
    return folder, make_corpus(folder, {"train": layout}, sources=("web", "code", "math"))


Asked = Callable[..., RunConfig]


@pytest.fixture
def asked(corpus: tuple[Path, Manifest], tmp_path: Path) -> Asked:
    """A run's config with this mixture."""

    def config(mixture: Any, **sections: Any) -> RunConfig:
        data = run_config(tmp_path, corpus[0], data={"mixture": mixture}, **sections)
        return RunConfig.model_validate(data)

    return config


def weighed(**weights: Any) -> dict[str, Any]:
    return {"sources": {name: {"weight": weight} for name, weight in weights.items()}}


def test_a_source_has_the_samples_that_lie_within_it(corpus: tuple[Path, Manifest]) -> None:
    folder, manifest = corpus
    spans = source_spans(str(folder), manifest, "train", manifest.format_of_samples, SEQ)
    assert {s.name: (s.first, s.samples) for s in spans.values()} == {
        "web": (0, 25),
        "code": (26, 10),
        "math": (37, 2),
    }


def test_the_stream_has_the_rows_of_the_mixture(
    corpus: tuple[Path, Manifest], asked: Asked
) -> None:
    """And no other: none of a source that is not named, at any world size."""
    folder, manifest = corpus
    config = asked(weighed(code=3, math=1))
    mixed = mixed_of(config, manifest)
    opened = open_corpus(str(folder), manifest, "train", SEQ, 3, mixed=mixed)
    schedule = Schedule.resolve(config.schedule, SEQ)
    order, reader = order_of(opened), reader_of(opened)
    for world in (1, 3):
        batches = [
            list(local_stream(opened, schedule, cursor=14, rank=rank, world_size=world))
            for rank in range(world)
        ]
        for step in range(schedule.steps - 2):
            ids = np.concatenate([batches[rank][step].ids for rank in range(world)])
            assert np.array_equal(ids, order.ids(7 * (step + 2), 7 * (step + 3)))
    ids = order.ids(0, schedule.positions)
    assert set(ids.tolist()) <= {*range(26, 36), *range(37, 39)}
    row = reader.read(ids[:1])["tokens"][0]
    assert np.array_equal(batches[0][0].samples["tokens"].shape[1:], row.shape)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (
            weighed(web=1, cod=1),
            r"data\.mixture\.sources\.cod: .* has no source of this name; it has web, code, math; "
            "did you mean 'code'",
        ),
        (
            {"sources": {"web": {}}, "history": [{"until": 99, "mixture": weighed(x=1)}]},
            r"data\.mixture\.history\.0\.mixture\.sources\.x: .* has no source of this name",
        ),
        (
            {"sources": {"web": {"weight": 1}, "math": {"weight": 1, "max_epochs": 4}}},
            r"data\.mixture\.sources\.math\.max_epochs = 4: the run would take \d+(\.\d)? epochs "
            r"of this source, [\d,]+ tokens of at most 128: lower its weight or schedule\.horizon",
        ),
        (
            {"sources": {"web": {}}, "history": [{"until": "1M", "mixture": weighed(web=1)}]},
            r"data\.mixture\.history\.0\.until = 1M: is after the horizon of",
        ),
    ],
)
def test_refused_before_anything_runs(
    corpus: tuple[Path, Manifest], asked: Asked, mixture: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        mixed_of(asked(mixture), corpus[1])


def test_a_source_without_a_whole_sample_is_refused(
    corpus: tuple[Path, Manifest], asked: Asked
) -> None:
    config = asked(weighed(web=1, math=1), train={"seq_len": 32})
    with pytest.raises(
        ConfigError, match=r"math: the train split of .* has no whole sample of thi"
    ):
        mixed_of(config, corpus[1])


def test_shards_that_mix_their_sources_are_refused(
    corpus: tuple[Path, Manifest], asked: Asked
) -> None:
    manifest = corpus[1]
    shards = [shard.model_copy(update={"source": None}) for shard in manifest.shards]
    with pytest.raises(ConfigError, match="mix their sources, as an older version of Manta prep"):
        mixed_of(asked(weighed(web=1)), manifest.model_copy(update={"shards": shards}))


def test_no_mixture_is_the_order_of_the_corpus(corpus: tuple[Path, Manifest], asked: Asked) -> None:
    assert mixture_of(asked(None), corpus[1]) is None


def test_a_run_is_bound_to_its_sources(asked: Asked) -> None:
    """Also where none has a weight, so that nothing but the names differs."""
    bindings = {
        binding_of(asked(mixture), "corpus")
        for mixture in (
            None,
            {"sources": {"web": {}}},
            {"sources": {"web": {}, "code": {}}},
            weighed(web=1),
            weighed(web=1, code=1),
        )
    }
    assert len(bindings) == 5

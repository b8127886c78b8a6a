"""`manta precompute`: what a model says of each sample of a corpus, once, for all runs to come.

Ray Data hands spans of samples to actors that each hold the model, which is a distillation's
teacher or a preference's reference. A span becomes a shard, beside the corpus in a folder or a
store. An attempt that was interrupted goes on with the shards that are there.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray
from ray.data import Dataset
from ray.exceptions import RayError

from manta.config.errors import ConfigError, RunError
from manta.config.model_names import frozen_model
from manta.config.objective import ObjectiveSection
from manta.config.run import RunConfig
from manta.config.scaling import gpus_of
from manta.corpus.manifest import Shard, Split
from manta.corpus.progress_bar import PrepareProgress
from manta.elastic.checks.precomputed_columns import settings_of
from manta.elastic.checks.preflight import Checked, check
from manta.elastic.driver.precomputers import Makes, ReferenceColumn, TeacherColumns
from manta.sample import shard_file
from manta.sample.columns import to_arrow
from manta.storage.atomic import write_whole
from manta.storage.place import Place, place_of, tree
from manta.storage.probe import check_writable
from manta.stream.plan import Corpus, open_corpus, reader_of
from manta.stream.precomputed import PrecomputedManifest, ReferenceSettings, TeacherSettings
from manta.train.frozen import frozen_from

# Bytes and tokens of a shard at most: what an actor computes between two moments at which it may be
# killed, and what there are so many of that each worker has some. A large corpus has larger ones,
# but no more.
SHARD_BYTES, SHARD_TOKENS, MOST_SHARDS = 8 * 2**20, 2**18, 4096
SPLITS: tuple[Split, ...] = ("train", "validation")
READING_THREADS = 4


@dataclass(frozen=True)
class Planned:
    """What is to be precomputed for a run.

    Attributes:
        config: the run, as if its frozen model computed beside the trained one.
        settings: corpus, model and keys that decide what is computed.
        folder: folder beside the corpus, or its URL in a store.
        corpora: splits that have a sample, by name.
    """

    config: RunConfig
    settings: TeacherSettings | ReferenceSettings
    folder: Place
    corpora: dict[Split, Corpus]

    @property
    def samples(self) -> int:
        """Samples of all splits."""
        return sum(reader_of(corpus).num_samples for corpus in self.corpora.values())

    @property
    def bytes(self) -> int:
        """Size on disk, about."""
        return self.samples * self.settings.bytes_a_sample

    def spans(self) -> Iterator[dict[str, Any]]:
        """The spans of samples that make a shard each."""
        settings = self.settings
        rows = min(SHARD_BYTES // settings.bytes_a_sample, SHARD_TOKENS // settings.seq_len)
        step = max(1, rows, self.samples // MOST_SHARDS)
        for split, corpus in self.corpora.items():
            count = reader_of(corpus).num_samples
            for index, first in enumerate(range(0, count, step)):
                last = min(first + step, count)
                file = f"{split}-{index:06d}.arrow"
                yield {"split": split, "file": file, "first": first, "end": last}


def plan(config: RunConfig) -> Planned:
    """Check a run whose frozen model is to be precomputed.

    Raises:
        ConfigError, RunError: naming the mistake and the remedy.
    """
    _check_asked(config.objective)
    checked = check(_beside(config))
    settings = settings_of(config, checked.manifest, checked.frozen)
    folder = place_of(settings.folder(checked.config.corpus))
    planned = Planned(checked.config, settings, folder, _corpora(checked))
    if finished(planned) is None:
        check_writable(place_of(checked.config.corpus), "corpus")
    return planned


def _check_asked(objective: ObjectiveSection) -> None:
    """Raise ConfigError if a run asks for nothing that is precomputed."""
    if objective.precomputed_by is not None:
        return
    if objective.compares:
        raise ConfigError(
            "objective.reference = 'model': the reference computes beside the model: set it to "
            "precomputed to have it say what it says of the pairs once"
        )
    raise ConfigError(
        "objective.top_k is missing: it says how many of the teacher's most likely tokens are "
        "kept of each token, such as 64; without it the teacher computes beside the model"
    )


def _beside(config: RunConfig) -> RunConfig:
    """The run as if its frozen model computed beside the trained one, which has no adapter then."""
    objective = config.objective.model_copy(update={"top_k": None, "reference": "model"})
    model = config.model.model_copy(update={"adapter": None, "train": [], "freeze": []})
    return config.model_copy(update={"objective": objective, "model": model})


def _corpora(checked: Checked) -> dict[Split, Corpus]:
    found, seq_len = dict[Split, Corpus](), checked.config.train.seq_len
    for split in SPLITS:
        if checked.manifest.tokens_of(split) >= seq_len:
            form = checked.corpus.format
            folder = checked.config.corpus
            found[split] = open_corpus(folder, checked.manifest, split, seq_len, 0, form)
    return found


def finished(planned: Planned) -> PrecomputedManifest | None:
    """What is there already; None if it is not, or not all of it."""
    try:
        return PrecomputedManifest.read(str(planned.folder))
    except FileNotFoundError:
        return None


def precompute(planned: Planned, *, progress: bool = True) -> PrecomputedManifest:
    """Have the model say of each sample what a run is to learn by. Ray must be running.

    Raises:
        RunError: if a worker died twice, or its model fails.
        OSError: if the folder can't be written to.
    """
    if manifest := finished(planned):
        return manifest
    spans = list(planned.spans())
    with PrepareProgress(progress) as bar:
        shards = _there(planned, spans)
        todo = [span for span in spans if span["file"] not in shards]
        if shards:
            bar.say(f"{len(shards)} of {len(spans)} shards are there from an earlier attempt")
        phase = bar.phase("computing", planned.bytes)
        kept = shards.values()
        phase.found(sum(s.bytes for s in kept), 0, sum(s.tokens for s in kept))
        for span in _computed(planned, todo):
            shard = shards[span["file"]] = _shard(planned, **span)
            phase.advance(shard.bytes, 0, shard.tokens)
        phase.done()
    ordered = [shards[span["file"]] for span in spans]
    manifest = PrecomputedManifest(
        settings=planned.settings, precision=planned.config.train.precision, shards=ordered
    )
    manifest.write(planned.folder)
    return manifest


def _there(planned: Planned, spans: list[dict[str, Any]]) -> dict[str, Shard]:
    """The shards of an interrupted attempt, by their files."""
    there = tree(planned.folder)

    def described(span: dict[str, Any]) -> Shard | None:
        content = (planned.folder / span["file"]).read_bytes()
        if not _is_whole(content, int(span["end"] - span["first"])):
            return None
        sha256 = hashlib.sha256(content).hexdigest()
        return _shard(planned, **span, bytes=len(content), sha256=sha256)

    with ThreadPoolExecutor(READING_THREADS) as threads:
        found = threads.map(described, [span for span in spans if span["file"] in there])
        return {shard.file: shard for shard in found if shard is not None}


def _is_whole(content: bytes, rows: int) -> bool:
    """Whether a shard of so many rows is whole: in some stores a part may bear its name."""
    try:
        with pa.ipc.open_file(pa.BufferReader(content)) as file:
            return bool(file.num_record_batches == 1 and file.get_batch(0).num_rows == rows)
    except pa.ArrowException:
        return False


def _shard(
    planned: Planned, *, split: Split, file: str, first: int, end: int, bytes: int, sha256: str
) -> Shard:
    rows = int(end - first)
    tokens = rows * planned.settings.seq_len
    return Shard(
        file=file, split=split, documents=rows, tokens=tokens, bytes=int(bytes), sha256=sha256
    )


def _computed(planned: Planned, spans: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The spans with size and checksum of their shards, as they are done."""
    if not spans:
        return
    resources = planned.config.scaling.resources_per_worker
    fits = [
        int(ray.cluster_resources().get(name, 0) // amount)
        for name, amount in resources.items()
        if amount
    ]
    actors = max(1, min([len(spans), *fits]))
    with warnings.catch_warnings():
        # Ray 2.60 has no other way yet to say how often an actor is started again.
        warnings.filterwarnings("ignore", ".*ray_remote_args_fn")
        dataset = _dataset(planned, spans, actors)
    try:
        yield from dataset.iter_rows()
    except RayError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"{planned.folder}: a worker could not go on: {first} If it ran out of memory, lower "
            "train.micro_batch; the same command goes on from the shards that are there"
        ) from None


def _dataset(planned: Planned, spans: list[dict[str, Any]], actors: int) -> Dataset:
    resources = planned.config.scaling.resources_per_worker
    dataset = ray.data.from_items(spans, override_num_blocks=len(spans)).map_batches(
        Precomputer,
        fn_constructor_args=(planned,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=resources.get("CPU", 1),
        num_gpus=gpus_of(resources),
        # By itself Ray Data would start an actor that died for want of memory again for ever.
        ray_remote_args_fn=lambda: {"max_restarts": 1, "max_task_retries": 1},
    )
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that progress bars are off, as we ask.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    return dataset


class Precomputer:
    """An actor's model, which writes the shard of one span after the other."""

    def __init__(self, planned: Planned):
        self._planned = planned
        config, settings = planned.config, planned.settings
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        source = frozen_model(config)
        assert source is not None
        torch.set_float32_matmul_precision(config.train.matmul_precision)
        model = frozen_from(source, config, device, sharded=False)
        if isinstance(settings, ReferenceSettings):
            self._columns: Makes = ReferenceColumn(model, config, device)
        else:
            self._columns = TeacherColumns(model, config, settings, device)

    def __call__(self, spans: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        """The spans of a batch, with size and checksum of the shard of each."""
        done: list[tuple[int, str]] = []
        for index in range(len(spans["file"])):
            file, split = str(spans["file"][index]), str(spans["split"][index])
            ids = np.arange(spans["first"][index], spans["end"][index])
            done.append(self._write(file, split, ids))  # type: ignore[arg-type]
        sizes, checksums = zip(*done, strict=True)
        columns = {name: values.tolist() for name, values in spans.items()}
        return {**columns, "bytes": list(sizes), "sha256": list(checksums)}

    def _write(self, file: str, split: Split, ids: NDArray[np.int64]) -> tuple[int, str]:
        width, reader = (
            self._planned.config.train.micro_batch,
            reader_of(self._planned.corpora[split]),
        )
        parts = [
            list(map(to_arrow, self._columns(reader.read(ids[first : first + width]))))
            for first in range(0, len(ids), width)
        ]
        columns = [pa.concat_arrays(column) for column in zip(*parts, strict=True)]
        schema, content = self._planned.settings.form.schema, io.BytesIO()
        size, sha256 = shard_file.write(content, pa.record_batch(columns, schema=schema))
        _put(self._planned.folder / file, content.getvalue())
        return size, sha256


def _put(place: Place, content: bytes) -> None:
    """Write a file, whole or not at all, also beside an actor that outlived its driver."""
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, content)
    else:
        place.write_bytes(content)

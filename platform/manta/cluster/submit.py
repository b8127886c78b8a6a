"""`manta submit`: from a config to a job on a cluster."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from manta.cluster import client as server
from manta.cluster import local_paths
from manta.cluster.package import Package, advice, pack
from manta.config.corpus import CorpusConfig
from manta.config.errors import ConfigError
from manta.config.evaluation import EvaluationConfig
from manta.config.gate import GateConfig
from manta.config.kinds import EVALUATION, GATE, RETRAINING, kind_of
from manta.config.load import Written, build, own_files, read
from manta.config.load_evaluation import NamedFile, files_of_evaluation, files_of_evaluators
from manta.config.own_code import own
from manta.config.retraining import RetrainConfig, files_of_retraining, load_retrain
from manta.config.run import RunConfig, WandbSection
from manta.config.sweep import SweepConfig, is_file, load_sweep, read_base
from manta.config.tuning import TuningConfig, load_tuning, read_tuned

Command = Literal["train", "sweep", "tune", "prepare", "evaluate", "gate", "retrain"]
SentConfig = (
    RunConfig
    | SweepConfig
    | TuningConfig
    | CorpusConfig
    | EvaluationConfig
    | GateConfig
    | RetrainConfig
)


@dataclass(frozen=True)
class Work:
    """A valid config, and the command that a job would run with it.

    Attributes:
        command: Manta's command, such as train.
        path: the config file.
        overrides: overrides given on the command line.
        config: the config that file and overrides give together.
        base: a sweep's or a tuning's base with its overrides.
        named: how writers of a sweep or tuning named its files, by key.
        own: the user's Python files that the run's config names, by key.
        data: files of evaluators that the config names; of a retraining, all files.
        model: the model that an evaluation measures, or a gate decides on.
        go: whether a retraining runs what it says.
        computes: whether the job's own process needs a GPU.
    """

    command: Command
    path: Path
    overrides: tuple[str, ...]
    config: SentConfig
    base: RunConfig | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, Path] = field(default_factory=dict)
    data: Sequence[NamedFile] = ()
    model: str | None = None
    go: bool = False
    computes: bool = False

    @property
    def name(self) -> str:
        """Name of the run, sweep, tuning, corpus, evaluation, gate or champion."""
        if isinstance(self.config, EvaluationConfig | GateConfig):
            return self.config.name
        if isinstance(self.config, RetrainConfig):
            return f"retrain-{self.config.champion.partition('@')[0]}"
        if isinstance(self.config, RunConfig):
            return self.config.run.name
        if isinstance(self.config, SweepConfig):
            return self.config.sweep.name
        if isinstance(self.config, TuningConfig):
            return self.config.tuning.name
        return Path(self.config.out).name

    @property
    def wandb(self) -> WandbSection | None:
        """The W&B section of the run, or of the base of others; None if none is trained."""
        run = self.base or self.config
        return run.wandb if isinstance(run, RunConfig) else None

    @property
    def files(self) -> dict[str, Path]:
        """The files that make up the config, by the key that names them; ``""``: the config."""
        found = {"": self.path.resolve()}
        found |= {key: path.expanduser().resolve() for key, path in self.own.items()}
        found |= {file.key: file.path for file in self.data}
        if isinstance(self.config, SweepConfig | TuningConfig):
            found["base"] = Path(self.config.base).resolve()
        if isinstance(self.config, SweepConfig):
            own = Path("tune_spaces") / f"{self.config.space}.py"
            if is_file(self.config.space):
                found["space"] = Path(self.config.space).resolve()
            elif own.is_file():
                found["space"] = own.resolve()
        return found


def open_work(
    path: Path, overrides: Sequence[str] = (), model: str | None = None, go: bool = False
) -> Work:
    """Read the config of a run, sweep, tuning, corpus, evaluation, gate or retraining.

    Args:
        path: the config file.
        overrides: overrides given on the command line.
        model: the model that an evaluation measures, or a gate decides on.
        go: whether a retraining runs what it says.

    Raises:
        ConfigError: naming file, key and remedy; also of paths of this machine only.
    """
    written = read(path, overrides)
    given = tuple(overrides)
    kind = kind_of(written.data)
    if go and kind is not RETRAINING:
        raise ConfigError(f"{path}: --go is for a retraining, which this config is not")
    if kind is EVALUATION:
        return _evaluation(path, given, written, model)
    if kind is GATE:
        return _gate(path, given, written, model)
    if model is not None:
        raise ConfigError(
            f"{path}: --model is for an evaluation or a gate, which this config is not"
        )
    if kind is RETRAINING:
        return _retraining(path, given, written, go)
    if "tuning" in written.data:
        tuning = load_tuning(path, overrides)
        by = read_tuned(tuning)
        base = build(by, RunConfig)
        local_paths.check_tuning(tuning, written, base, by)
        named = {"base": str(written.data["base"])}
        data = files_of_evaluators(by)
        return Work("tune", path, given, tuning, base, named, own_files(by), data)
    if written.data.keys() & {"sweep", "space", "base"}:
        sweep = load_sweep(path, overrides)
        by = read_base(sweep)
        base = build(by, RunConfig)
        local_paths.check_sweep(sweep, written, base, by)
        named = {key: str(written.data[key]) for key in ("base", "space")}
        data = files_of_evaluators(by)
        return Work("sweep", path, given, sweep, base, named, own_files(by), data)
    if written.data.keys() & {"sources", "out"}:
        corpus = build(written, CorpusConfig)
        local_paths.check_corpus(corpus, written)
        return Work("prepare", path, given, corpus)
    run = build(written, RunConfig)
    local_paths.check_run(run, written)
    data = files_of_evaluators(written)
    return Work("train", path, given, run, own=own_files(written), data=data)


def _evaluation(path: Path, given: tuple[str, ...], written: Written, model: str | None) -> Work:
    if model is None:
        raise ConfigError(
            f"{path}: which model is to be measured? Name it: manta submit {path} --model "
            "RUN[@STEP]"
        )
    config = build(written, EvaluationConfig)
    local_paths.check_evaluation(config, written, model)
    data, on_gpu = files_of_evaluation(written), config.device == "cuda"
    return Work("evaluate", path, given, config, data=data, model=model, computes=on_gpu)


def _gate(path: Path, given: tuple[str, ...], written: Written, model: str | None) -> Work:
    if model is None:
        raise ConfigError(
            f"{path}: which model is to be decided on? Name it: manta submit {path} --model RUN"
        )
    config = build(written, GateConfig)
    local_paths.check_gate(config, written, model)
    return Work("gate", path, given, config, model=model)


def _retraining(path: Path, given: tuple[str, ...], written: Written, go: bool) -> Work:
    config, here = build(written, RetrainConfig), load_retrain(path, given)
    trained = read(here.train, here.overrides)
    local_paths.check_retraining(config, written, build(trained, RunConfig), trained)
    on_gpu = build(read(here.evaluate), EvaluationConfig).device == "cuda"
    data = files_of_retraining(written)
    return Work("retrain", path, given, config, data=data, go=go, computes=on_gpu)


def submit(work: Work, address: str | None, extra: Mapping[str, str]) -> tuple[Any, str]:
    """Send a job, printing what is sent; returns the client of its cluster, and the job's id.

    Args:
        work: the job's command and config.
        address: address of the cluster's job server.
        extra: texts of small files to send along, by name.

    Raises:
        MantaError: if the job can't be sent.
    """
    client = server.connect(address)
    with tempfile.TemporaryDirectory(prefix="manta-submit-") as folder, _errors(client):
        package = pack(Path(folder), work.command, list(work.files.values()), extra)
        print(f"sending    {package.described()}")
        if package.is_large:
            print(f"warning    this is larger than code and configs are: {advice(package)}")
        arguments = _arguments(work, package)
        if work.command in ("evaluate", "gate", "retrain"):
            print(f"runs       {shlex.join(['manta', work.command, *arguments])}")
        job = client.submit_job(
            entrypoint=shlex.join(["python", *package.script, *arguments]),
            **_needs(work),
            submission_id=job_id(work.name),
            runtime_env={"working_dir": str(package.folder)},
            metadata={"manta": work.command, "name": work.name, "job_name": work.name},
        )
    print("\n".join(_links(work, job, client.get_address())))
    return client, job


def _needs(work: Work) -> dict[str, float]:
    """What the node must have on which the job's own process runs: an evaluation computes there."""
    return {"entrypoint_num_gpus": 1.0} if work.computes else {}


def _errors(client: Any) -> AbstractContextManager[None]:
    return server.errors(client.get_address())


def job_id(name: str) -> str:
    """A unique id that begins with the run's name."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)}-{secrets.token_hex(3)}"


def _arguments(work: Work, package: Package) -> list[str]:
    """The arguments of the command on the cluster: the config's path, and overrides."""
    files = work.files
    own = package.placed[files[""]]
    arguments = [*filter(None, [work.model]), str(own), *work.overrides]
    arguments += ["--go"] * work.go
    for key, name in work.named.items():
        place = package.placed.get(files.get(key, Path()))
        if place is not None and not _leads_to(place, name, own):
            there = os.path.relpath(place, own.parent)
            arguments.append(f"{key}={there if '/' in there else f'./{there}'}")
    return [*arguments, *_own_code(work, package), *_data(work, package)]


def _own_code(work: Work, package: Package) -> Iterator[str]:
    """Overrides with the new paths of the user's Python files, where the config's don't hold.

    Raises:
        ConfigError: if a base would not find its files, as no override reaches the base.
    """
    files = work.files
    run = work.base or work.config
    config = files["base"] if work.base else files[""]
    for key in work.own:
        place, beside = package.placed[files[key]], package.placed[config].parent
        before = os.path.relpath(files[key], config.parent)
        as_before = before == os.path.relpath(place, beside)
        named = own(run, key) if isinstance(run, RunConfig) else None
        given = any(override.startswith(f"{key}=") for override in work.overrides)
        if named is None or (as_before and not given):
            continue
        if work.base:
            raise ConfigError(
                f"{config}: {key} = '{files[key]}' can't be found on the cluster: put the file "
                f"beside {config}, and set {key}: ./{files[key].name}:{named.name}"
            )
        yield f"{key}=./{place}:{named.name}"


def _data(work: Work, package: Package) -> Iterator[str]:
    """Overrides with the new paths of evaluators' files, where the config's don't hold.

    Raises:
        ConfigError: if no override can say so.
    """
    for file in work.data:
        place, beside = package.placed[file.path], package.placed[file.beside].parent
        before = os.path.relpath(file.path, file.beside.parent)
        if not file.given and before == os.path.relpath(place, beside):
            continue
        if work.base or file.beside != work.files[""] or file.key.count(".") > 2:
            raise ConfigError(
                f"{file.beside}: {file.key}: {file.path} can't be found on the cluster: put the "
                f"file beside {file.beside}, and name it there"
            )
        yield f"{file.key}=./{place}{file.rest}"


def _leads_to(place: Path, name: str, own: Path) -> bool:
    """Whether `name` in the sweep's config at `own` leads to the file at `place`."""
    if name == place.stem and place.parent == Path("tune_spaces"):
        return True
    return not os.path.isabs(name) and os.path.normpath(own.parent / name) == str(place)


def _links(work: Work, job: str, address: str) -> list[str]:
    lines = [f"job        {job}", f"dashboard  {address}/#/jobs/{job}"]
    section = work.wandb
    if section is not None and section.mode in ("auto", "online"):
        where = f"project {section.project}"
        if section.entity is not None:
            site = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")
            site = site.replace("://api.wandb.ai", "://wandb.ai")
            where = f"{site}/{section.entity}/{section.project}"
        lines.append(f"W&B        {where}, with the key on the cluster's head: none is sent")
    return [
        *lines,
        f"watch      manta status {job} | manta logs {job} --follow",
        f"save, end  manta stop {job}; to continue, submit the same config again",
    ]

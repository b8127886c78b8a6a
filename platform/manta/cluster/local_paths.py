"""Refuse paths that exist on one machine only, before a job is sent.

A job runs in a folder of its own on the cluster's head, its workers on other nodes. A relative
path, or one in a home folder, is a different place on each of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from manta.config.alerts import AlertCommandSection
from manta.config.corpus import CorpusConfig
from manta.config.errors import ConfigError
from manta.config.evaluation import EvaluationConfig
from manta.config.gate import GateConfig
from manta.config.load import Written, where
from manta.config.model_names import named_models
from manta.config.retraining import RetrainConfig
from manta.config.run import RunConfig
from manta.config.sweep import SweepConfig
from manta.config.tuning import TuningConfig

Named = tuple[str, str]  # a dotted key and its value
# The registry where a config names none: a folder beside it.
DEFAULT_REGISTRY = "registry"


def check_run(config: RunConfig, written: Written) -> None:
    """Refuse a run whose corpus, storage or model is named by a local path.

    Raises:
        ConfigError: naming file, key and remedy of each.
    """
    _refuse(_local(written, [("run.storage", config.run.storage), *_read_by(config)]))


def check_sweep(config: SweepConfig, written: Written, base: RunConfig, by: Written) -> None:
    """Refuse a sweep whose storage, or whose base's corpus or model, is a local path.

    Args:
        config: the sweep's config; `written` says where each of its values comes from.
        base: the sweep's base with its overrides; `by` says where each value comes from.

    Raises:
        ConfigError: naming file, key and remedy of each.
    """
    _check_based("sweep", config.sweep.storage, written, base, by)


def check_tuning(config: TuningConfig, written: Written, base: RunConfig, by: Written) -> None:
    """Refuse a tuning whose storage, or whose base's corpus or model, is a local path.

    Args:
        config: the tuning's config; `written` says where each of its values comes from.
        base: the tuning's base with its overrides; `by` says where each value comes from.

    Raises:
        ConfigError: naming file, key and remedy of each.
    """
    _check_based("tuning", config.tuning.storage, written, base, by)


def _check_based(kind: str, storage: str, written: Written, base: RunConfig, by: Written) -> None:
    """Refuse a `kind` of config whose storage, or whose base's corpus or model, is a local path."""
    own = _local(written, [(f"{kind}.storage", storage)])
    _refuse([*own, *_local(by, list(_read_by(base)), f"in the {kind}'s overrides")])


def check_evaluation(config: EvaluationConfig, written: Written, model: str) -> None:
    """Refuse an evaluation whose model, or a corpus that it reads, is a local path.

    Raises:
        ConfigError: naming file, key and remedy of each.
    """
    _check_model(model)
    corpora = [(name, split.corpus) for name, split in config.splits.items()]
    named = [(f"splits.{name}.corpus", path) for name, path in corpora if path is not None]
    _refuse(_local(written, named))


def check_gate(config: GateConfig, written: Written, model: str) -> None:
    """Refuse a gate whose model, baseline or command for alerts is a local path.

    Raises:
        ConfigError: naming file, key and remedy of each.
    """
    _check_model(model)
    named = [] if config.baseline is None else [("baseline", config.baseline)]
    _refuse(_local(written, [*named, *_command(config.alerts)]))


def check_retraining(
    config: RetrainConfig, written: Written, run: RunConfig, trained: Written
) -> None:
    """Refuse a retraining that reads from, or writes to, a local path.

    Args:
        config: the config of retraining; `written` says where each of its values comes from.
        run: the challenger's config; `trained` says where each value comes from.

    Raises:
        ConfigError: naming file, key and remedy of each.
    """
    named = [("registry", config.registry or DEFAULT_REGISTRY), *_command(config.alerts)]
    triggers = config.triggers
    if triggers.drift is not None:
        named.append(("triggers.drift.new", triggers.drift.new))
    if triggers.new_data is not None:
        paths = enumerate(triggers.new_data.paths)
        named += [(f"triggers.new_data.paths.{i}", path) for i, path in paths]
    of_run = [("run.storage", run.run.storage)]
    if config.prepare is None:  # else the corpus is that of the champion and new data
        of_run.append(("corpus", run.corpus))
    _refuse([*_local(written, named), *_local(trained, of_run, "in its file or in 'overrides'")])


def _check_model(model: str) -> None:
    place = model.removeprefix("registry:")
    if not _is_shared(place):
        raise ConfigError(
            f"--model {model} is a path of this machine, which the cluster's nodes can't find; "
            "give an absolute path on storage that all of its nodes share, or a URL"
        )


def _command(alerts: AlertCommandSection) -> list[Named]:
    """The path of the command for alerts, unless the command is found on PATH."""
    name = alerts.command[0] if alerts.command else ""
    return [("alerts.command.0", name)] if "/" in name else []


def check_corpus(config: CorpusConfig, written: Written) -> None:
    """Refuse a corpus that is read from or written to a local path.

    Raises:
        ConfigError: naming file, key and remedy of each.
    """
    named = [("out", config.out)]
    for number, source in enumerate(config.sources):
        named += [(f"sources.{number}.paths.{i}", path) for i, path in enumerate(source.paths)]
    if config.tokenizer.path is not None and _looks_local(config.tokenizer.path):
        named.append(("tokenizer.path", config.tokenizer.path))
    _refuse(_local(written, named))


def _read_by(config: RunConfig) -> Iterator[Named]:
    yield "corpus", config.corpus
    for model in named_models(config):
        if _looks_local(model.name):
            yield model.key, model.name


def _looks_local(name: str) -> bool:
    """Whether a model or tokenizer is named by a path, not by its name on a hub."""
    return name.startswith((".", "~")) or os.path.exists(name)


def _local(written: Written, named: list[Named], fix: str = "on the command line") -> list[str]:
    return [
        f"{where(written, key)}: {key} = '{path}' is a path of this machine, which the cluster's "
        f"nodes can't find; {_remedy(key, path, fix)}"
        for key, path in named
        if not _is_shared(path)
    ]


def _remedy(key: str, path: str, fix: str) -> str:
    shared = "give an absolute path on storage that all of its nodes share"
    if key == "out":  # prepare renames and locks files, which a store can't
        shared += "; a finished corpus can be copied to a store"
    else:
        shared += ", or a URL"
    return f"{shared} ({fix}: {key}={_example(key, path)})"


def _refuse(messages: list[str]) -> None:
    if messages:
        raise ConfigError("\n".join(messages))


def _is_shared(path: str) -> bool:
    """Whether a path can be the same place on all nodes: a URL or an absolute path."""
    return "://" in path or os.path.isabs(path)


def _example(key: str, path: str) -> str:
    tail = os.path.normpath(path).lstrip("./~") or key.rpartition(".")[2]
    return f"/shared/{tail}"

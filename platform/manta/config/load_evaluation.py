"""Reads the config of an evaluation from its file, and finds the files that it names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.config.evaluation import EvaluationConfig
from manta.config.load import EVALUATORS_CONFIG, Written, folder_of, load, read
from manta.config.own_code import is_own

# Key of an evaluator that names a file, by its section.
NAMES_A_FILE = {"generations": "file", "calibration": "file", "tasks": "task", "own": "measure"}


@dataclass(frozen=True)
class NamedFile:
    """A file beside a config that a key of it names by a relative path.

    Attributes:
        key: the dotted key.
        path: the file.
        beside: the config file that has the key.
        given: whether the key's value was given elsewhere, as on the command line.
        rest: rest of the value after the path, such as ``:measure``.
    """

    key: str
    path: Path
    beside: Path
    given: bool = False
    rest: str = ""


def load_evaluation(path: str | Path, overrides: Iterable[str] = ()) -> EvaluationConfig:
    """The config of an evaluation, with absolute paths of its files and the text of own code.

    Raises:
        ConfigError: as `load`; or if a file that it names can't be read.
    """
    return load(path, EvaluationConfig, overrides)


def files_of_evaluation(written: Written) -> list[NamedFile]:
    """The files that the config of an evaluation names by a relative path."""
    return list(_named(written.data, "", Path(written.source), written))


def files_of_evaluators(written: Written) -> list[NamedFile]:
    """The files that a run's config names for its evaluators, and those that these name."""
    section = written.data.get("eval")
    asked = section.get("evaluators") if isinstance(section, dict) else None
    config = asked.get("config") if isinstance(asked, dict) else asked
    if isinstance(config, dict):
        return list(_named(config, f"{EVALUATORS_CONFIG}.", Path(written.source), written))
    if not isinstance(config, str) or os.path.isabs(config):
        return []
    own = named_file(EVALUATORS_CONFIG, config, "", Path(written.source), written)
    return [own, *files_of_evaluation(read(own.path))]


def _named(
    data: Mapping[str, Any], above: str, beside: Path, written: Written
) -> Iterator[NamedFile]:
    for section, key in NAMES_A_FILE.items():
        for name, evaluator in (data.get(section) or {}).items():
            value = evaluator.get(key) if isinstance(evaluator, dict) else None
            if not isinstance(value, str) or os.path.isabs(value):
                continue
            rest = f":{value.rpartition(':')[2]}" if is_own(value) else ""
            if rest or value.endswith((".yaml", ".yml")) or key == "file":
                dotted = f"{above}{section}.{name}.{key}"
                yield named_file(dotted, value.removesuffix(rest), rest, beside, written)


def named_file(key: str, value: str, rest: str, beside: Path, written: Written) -> NamedFile:
    """The file that a key names by a relative path; `beside` is the config that has the key."""
    folder = folder_of(written, key)
    path = Path(os.path.normpath((folder / Path(value).expanduser()).absolute()))
    return NamedFile(key, path, beside.resolve(), folder != beside.parent, rest)

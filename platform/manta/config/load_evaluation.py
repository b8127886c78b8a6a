"""Reads the config of an evaluation from its file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from manta.config.evaluation import EvaluationConfig
from manta.config.load import load


def load_evaluation(path: str | Path, overrides: Iterable[str] = ()) -> EvaluationConfig:
    """The config of an evaluation, with absolute paths of its files and the text of own code.

    Raises:
        ConfigError: as `load`; or if a file that it names can't be read.
    """
    return load(path, EvaluationConfig, overrides)

"""The files that the config of an evaluation names: their absolute paths, the text of own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from manta.config.errors import ConfigError
from manta.config.evaluation import EvaluationConfig, OwnEvaluation
from manta.config.own_code import read_own
from manta.config.run import RunConfig


def with_files(
    config: EvaluationConfig,
    folder: Callable[[str], Path],
    where: Callable[[str], str],
    *,
    must_exist: bool = True,
) -> EvaluationConfig:
    """The config with absolute paths of files, and the text of own code.

    Args:
        config: the config of an evaluation.
        folder: called with a key; gives the folder that a relative path at the key starts from.
        where: called with a key; says where its value comes from, for messages.
        must_exist: whether files must be there.

    Raises:
        ConfigError: naming the key of what can't be read.
    """

    def there(key: str, file: str) -> str:
        path = (folder(key) / Path(file).expanduser()).absolute()
        if must_exist and not path.is_file():
            raise ConfigError(
                f"{where(key)}: {key} = '{file}': no such file ({path}); give its path relative "
                "to the config file"
            )
        return str(path)

    changes: dict[str, Any] = {}
    for section in ("generations", "calibration"):
        changes[section] = {
            name: one.model_copy(update={"file": there(f"{section}.{name}.file", one.file)})
            for name, one in getattr(config, section).items()
        }
    changes["tasks"] = {
        name: task.model_copy(update={"task": there(f"tasks.{name}.task", task.task)})
        if task.is_file
        else task
        for name, task in config.tasks.items()
    }
    code = dict[str, str]()
    changes["own"] = {
        name: _with_text(
            one,
            f"{where(f'own.{name}.measure')}: own.{name}.measure = '{one.measure}'",
            folder(f"own.{name}.measure"),
            config.code,
            code,
        )
        for name, one in config.own.items()
    }
    return config.model_copy(update={**changes, "code": code})


def evaluation_of(config: RunConfig) -> EvaluationConfig | None:
    """The evaluation of a run's checkpoints; None if its config asks for none."""
    section = config.eval.evaluators
    return None if section is None else EvaluationConfig.model_validate(section.config)


def check_there(config: RunConfig) -> None:
    """Refuse a run whose evaluators name a file that is not there.

    Raises:
        ConfigError: naming the key.
    """
    if (evaluation := evaluation_of(config)) is not None:
        with_files(evaluation, lambda key: Path(), lambda key: "eval.evaluators.config")


def _with_text(
    evaluator: OwnEvaluation,
    said: str,
    folder: Path,
    given: Mapping[str, str],
    code: dict[str, str],
) -> OwnEvaluation:
    """An evaluator that names its file without a folder; the file's text is put into `code`."""
    file, text = read_own(evaluator.measure, said, folder, given)
    if code.setdefault(file, text) != text:
        raise ConfigError(f"{said}: another file is called {file} too; rename one of them")
    function = evaluator.measure.rpartition(":")[2]
    return evaluator.model_copy(update={"measure": f"{file}:{function}"})

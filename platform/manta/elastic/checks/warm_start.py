"""A run where a config names a model: that of one of its checkpoints, exported once beside them."""

from __future__ import annotations

from pathlib import Path

from manta.config.errors import ConfigError
from manta.config.model_names import holds_adapter_alone, named_models
from manta.config.run import RunConfig
from manta.config.urls import is_url
from manta.record.model_registry import registered_model
from manta.state.checkpoint_files import name_of, newest, read_state
from manta.storage.run_folder import CHECKPOINTS, EXPORTS, RUN


def run_at_step(text: str) -> tuple[str, int | None]:
    """``RUN`` or ``RUN@STEP`` as a run's place and a step.

    Raises:
        ConfigError: if no step follows the last ``@``, and there is no folder of the whole name.
    """
    run, at, step = text.rpartition("@")
    if not at or Path(text).exists():
        return text, None
    if not step.isdecimal():
        if "://" in text:  # the @ belongs to the URL
            return text, None
        raise ConfigError(f"{text}: write RUN@STEP, such as runs/base@1200, or RUN alone")
    return run, int(step)


def exported_folder(pretrained: str) -> Path | None:
    """The folder for the model of a run or a registry; None if `pretrained` names neither.

    Args:
        pretrained: ``RUN`` for its newest checkpoint, ``RUN@STEP``, or
            ``registry:[PLACE/]NAME[@TAG]``.

    Raises:
        ConfigError, RunError: if the run has no checkpoint, or the registry no such model.
    """
    if (registered := registered_model(pretrained)) is not None:
        return registered.absolute()
    if is_url(pretrained) or not Path(pretrained.rpartition("@")[0] or pretrained).is_dir():
        return None
    place, step = run_at_step(pretrained)
    run = Path(place).expanduser().absolute()
    if not (run / RUN).exists():
        return None
    if step is None:
        step = read_state(newest(run / CHECKPOINTS)).step
    return run / EXPORTS / name_of(step)


def export_if_needed(config: RunConfig) -> None:
    """Export the models of runs that a config names, unless that was done before.

    Args:
        config: the run's, with a folder from `exported_folder` in place of each run's name.

    Raises:
        RunError: if there is no such checkpoint, or it can't be written beside the run.
        ConfigError: if a name is that of an adapter's folder.
    """
    for model in named_models(config):
        folder = Path(model.name)
        if holds_adapter_alone(folder):
            raise ConfigError(
                f"{model.key} = {model.name!r}: a folder of PEFT, which holds an adapter alone: "
                "give the run that it is from, or its merged model (manta export RUN OUT --merge)"
            )
        _export(folder)


def _export(folder: Path) -> None:
    """Export a run's model to `folder`, if it is from `exported_folder` and not there yet."""
    if folder.parent.name != EXPORTS or folder.exists():
        return
    run = folder.parents[1]
    if (run / RUN).exists():
        from manta.record.run_config import recorded_config
        from manta.train.export import export

        try:
            adapted = recorded_config(run).model.adapter is not None
            export(run, folder, int(folder.name.rpartition("-")[2]), merge=adapted)
        except OSError:
            if not folder.exists():  # else another run that begins there was faster
                raise

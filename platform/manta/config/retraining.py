"""The config of retraining: what asks for it, and the configs of what it does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from manta.config.alerts import AlertCommandSection, check_command, with_absolute_command
from manta.config.errors import ConfigError
from manta.config.load import Written, build, folder_of, own_files, read, where
from manta.config.load_evaluation import (
    NamedFile,
    files_of_evaluation,
    files_of_evaluators,
    named_file,
)
from manta.config.section import Section
from manta.config.urls import is_url


class DriftTrigger(Section):
    """New data that drifted from the champion's."""

    new: str = Field(description="new data: a corpus, or a file, relative to this config")
    config: str | None = Field(
        default=None, description="config of manta drift; by default its defaults"
    )


class AgeTrigger(Section):
    """A champion that is old."""

    days: float = Field(gt=0, description="days since the champion was promoted")


class MetricTrigger(Section):
    """An evaluation of the champion that fell below what is asked, or rose above it."""

    name: str = Field(description="metric, such as answers/success")
    evaluation: str | None = Field(
        default=None, description="name of the evaluation; by default the newest"
    )
    at_least: float | None = Field(default=None, description="smallest value that is good")
    at_most: float | None = Field(default=None, description="largest value that is good")

    @model_validator(mode="after")
    def _has_a_bound(self) -> MetricTrigger:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give 'at_least', 'at_most' or both")
        return self


class NewDataTrigger(Section):
    """Files that came since the champion was promoted."""

    paths: list[str] = Field(
        min_length=1, description="files or patterns such as incoming/*.jsonl, relative to this"
    )
    megabytes: float = Field(
        gt=0, description="megabytes (10^6 bytes) of files that are newer than the champion"
    )


class TriggersSection(Section):
    """What asks for retraining; one that fires is enough."""

    drift: DriftTrigger | None = Field(
        default=None, description="data that drifted from the champion's; docs/shipping.md"
    )
    age: AgeTrigger | None = Field(default=None, description="a champion that is old")
    metric: MetricTrigger | None = Field(
        default=None, description="a metric of the champion that is out of its bounds"
    )
    new_data: NewDataTrigger | None = Field(
        default=None, description="an amount of data since the champion was promoted"
    )

    @model_validator(mode="after")
    def _has_one(self) -> TriggersSection:
        if not any((self.drift, self.age, self.metric, self.new_data)):
            raise ValueError("give one of 'drift', 'age', 'metric', 'new_data'")
        return self


class RetrainConfig(Section):
    """When a champion is trained further, on what, and what its challenger must show."""

    champion: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[A-Za-z][A-Za-z0-9._-]{0,63}$",
        description="name and alias in the registry, such as chat@champion",
    )
    registry: str | None = Field(
        default=None,
        description="folder or URL of the registry; by default MANTA_REGISTRY, or registry",
    )
    triggers: TriggersSection
    pause_days: float = Field(
        default=7, ge=0, description="days without retraining after a challenger failed its gate"
    )
    prepare: str | None = Field(
        default=None,
        description="config of the new data; the champion's corpus comes first in the result. "
        "Without it the corpus of the run's config is trained on",
    )
    train: str = Field(description="config of the challenger's run, which begins as the champion")
    overrides: list[str] = Field(
        default_factory=list,
        description="changes to that config, such as data.mixture.sources.new.weight=3",
    )
    evaluate: str = Field(description="config of the evaluation of both")
    gate: str = Field(description="config of the gate; its baseline is the champion")
    alerts: AlertCommandSection = AlertCommandSection()


# Keys that name a file.
FILES = ("prepare", "train", "evaluate", "gate")
DRIFT_CONFIG = "triggers.drift.config"


def load_retrain(path: str | Path, overrides: Any = ()) -> RetrainConfig:
    """The config of retraining, with absolute paths.

    Raises:
        ConfigError: as `load`; or if a file or command that it names isn't there.
    """
    written = read(path, overrides)
    config = build(written, RetrainConfig)
    command = "alerts.command"
    alerts = with_absolute_command(config.alerts, folder_of(written, command))
    check_command(alerts, f"{where(written, command)}: {command}")
    changed: dict[str, Any] = {
        key: _there(written, key, value) for key in FILES if (value := getattr(config, key))
    }
    if config.registry is not None and not is_url(config.registry):
        changed["registry"] = str(_beside(written, "registry", config.registry))
    triggers = config.triggers
    if (drift := triggers.drift) is not None:
        new = drift.new
        if not is_url(new):
            new = str(_beside(written, "triggers.drift.new", new))
        settings = drift.config
        if settings is not None:
            settings = _there(written, DRIFT_CONFIG, settings)
        drift = drift.model_copy(update={"new": new, "config": settings})
    if (data := triggers.new_data) is not None:
        paths = [str(_beside(written, "triggers.new_data.paths", one)) for one in data.paths]
        data = data.model_copy(update={"paths": paths})
    changed["alerts"] = alerts
    changed["triggers"] = triggers.model_copy(update={"drift": drift, "new_data": data})
    return config.model_copy(update=changed)


def files_of_retraining(written: Written) -> list[NamedFile]:
    """The files that the config of retraining names by a relative path, and those they name."""
    own = Path(written.source)
    drift = (written.data.get("triggers") or {}).get("drift") or {}
    named = {key: written.data.get(key) for key in FILES}
    named[DRIFT_CONFIG] = drift.get("config")
    found = {
        key: named_file(key, value, "", own, written)
        for key, value in named.items()
        if isinstance(value, str) and not os.path.isabs(value)
    }
    files = list(found.values())
    if "evaluate" in found:
        files += files_of_evaluation(read(found["evaluate"].path))
    if "train" in found:
        run = read(found["train"].path, written.data.get("overrides") or ())
        files += files_of_evaluators(run)
        beside = found["train"].path.resolve()
        files += [
            NamedFile(key, path.expanduser().resolve(), beside)
            for key, path in own_files(run).items()
        ]
    return files


def _beside(written: Written, key: str, path: str) -> Path:
    return (folder_of(written, key) / Path(path).expanduser()).absolute()


def _there(written: Written, key: str, file: str) -> str:
    path = _beside(written, key, file)
    if not path.is_file():
        raise ConfigError(
            f"{where(written, key)}: {key} = '{file}': no such file ({path}); give its path "
            "relative to the config file"
        )
    return str(path)

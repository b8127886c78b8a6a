"""The config of a gate: what the evaluation of a model must show before it ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from manta.config.alerts import AlertCommandSection, check_command, with_absolute_command
from manta.config.errors import ConfigError
from manta.config.evaluation import EVALUATION_NAME
from manta.config.load import build, folder_of, read, where
from manta.config.section import Section
from manta.config.thresholds import ThresholdSection
from manta.config.urls import is_url


class RegressionSection(Section):
    """How much worse than the baseline's a metric may be.

    By default a gate fails if the metric is worse by more than the margin, beyond noise: the whole
    interval of the difference lies there. With `proven` it passes only if the whole interval lies
    on the other side, so that few examples can't pass.
    """

    margin: float = Field(
        default=0.0, ge=0, description="how much worse than the baseline passes, in its unit"
    )
    proven: bool = Field(
        default=False, description="whether it must be shown that it is not worse than that"
    )


class GateConfig(Section):
    """What must hold: bounds of metrics, and metrics that must not be worse than a baseline's."""

    name: str = Field(pattern=EVALUATION_NAME, description="name of the gate, and of its record")
    thresholds: dict[str, ThresholdSection] = Field(
        default_factory=dict,
        description="metric, such as answers/success, or of a slice, such as "
        "held_out/loss[source=web]: its bounds",
    )
    baseline: str | None = Field(
        default=None,
        description="evaluation of the model to be no worse than: a run, or the folder of an "
        "evaluation, relative to this config",
    )
    regressions: dict[str, RegressionSection] = Field(
        default_factory=dict, description="metric that must not be worse than the baseline's"
    )
    alerts: AlertCommandSection = AlertCommandSection()

    @model_validator(mode="after")
    def _says_something(self) -> GateConfig:
        if not self.thresholds and not self.regressions:
            raise ValueError("nothing is asked: give 'thresholds', 'regressions' or both")
        if self.regressions and self.baseline is None:
            raise ValueError("'regressions' need a 'baseline', the evaluation to compare with")
        return self


def load_gate(path: str | Path, overrides: Any = ()) -> GateConfig:
    """The config of a gate, with the absolute paths of its baseline and its command for alerts.

    Raises:
        ConfigError: as `load`; or if there is no such baseline or command.
    """
    written = read(path, overrides)
    config = build(written, GateConfig)
    command = "alerts.command"
    alerts = with_absolute_command(config.alerts, folder_of(written, command))
    check_command(alerts, f"{where(written, command)}: {command}")
    config = config.model_copy(update={"alerts": alerts})
    if config.baseline is None or is_url(config.baseline):
        return config
    baseline = (folder_of(written, "baseline") / Path(config.baseline).expanduser()).absolute()
    if not baseline.exists():
        raise ConfigError(
            f"{where(written, 'baseline')}: baseline = '{config.baseline}': there is nothing at "
            f"{baseline}; give its path relative to the config file"
        )
    return config.model_copy(update={"baseline": str(baseline)})

"""The config of a tuning: which settings of a run are looked for, and what that may cost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from manta.config.errors import ConfigError
from manta.config.load import Written, build, change, given, read
from manta.config.run import RunConfig
from manta.config.section import Section
from manta.config.sweep import SWEEP_NAME
from manta.config.units import Span, span_tokens

Phase = Literal["micro_batch", "range", "critical", "confirm"]
PHASES: tuple[Phase, ...] = ("micro_batch", "range", "critical", "confirm")
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)]
# Fewer rates can't show a valley with two sides.
FEWEST_RATES = 4


class TuningSection(Section):
    """Which tuning this is. The name identifies it: the same name continues the tuning."""

    name: str = Field(pattern=SWEEP_NAME, description="name of the tuning and of its folder")
    storage: str = Field(
        default="runs", description="folder, or URL in an object store, of the tunings"
    )


def _differ(seeds: list[int], key: str) -> None:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{key} = {seeds}: give each seed once, as twice would be the same run")


class RangeSection(Section):
    """The range test of the learning rate: the loss after a short run at each of some rates."""

    # A factor of two is about as far as a rate may be off before the loss tells.
    rates: list[Annotated[float, Field(gt=0)]] | None = Field(
        default=None,
        min_length=FEWEST_RATES,
        description="learning rates to try, growing; if left out, from an eighth of the base's "
        "highest rate to eight times it, by factors of two",
    )
    tokens: Span = Field(default="5%", description="tokens of the run at each rate")
    seeds: Seeds = Field(default=[0, 1], description="each rate is trained with each of these")

    @model_validator(mode="after")
    def _ordered(self) -> RangeSection:
        _differ(self.seeds, "seeds")
        if self.rates and any(after <= before for before, after in pairwise(self.rates)):
            raise ValueError(f"rates = {self.rates}: they must grow, such as [1e-3, 2e-3, 4e-3]")
        return self


class CriticalSection(Section):
    """The critical batch size by branching: forks of one trunk at several batch sizes."""

    sizes: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        min_length=2,
        description="batch sizes of the forks, in samples, growing; if left out, the base's first "
        "one, twice, four and eight times it",
    )
    depths: list[Span] | None = Field(
        default=None,
        min_length=1,
        description="token counts at which the trunk is forked, growing; if left out, 2%, 5% and "
        "10% of the horizon after the end of the warmup",
    )
    tokens: Span = Field(default="2%", description="tokens that each fork is trained for")
    tolerance: float = Field(
        default=0.01,
        gt=0,
        description="nats of validation loss that a batch may cost to be below the critical one",
    )
    seeds: Seeds = Field(default=[0, 1], description="there is a trunk with each of these")

    @model_validator(mode="after")
    def _ordered(self) -> CriticalSection:
        _differ(self.seeds, "seeds")
        if self.sizes and any(after <= before for before, after in pairwise(self.sizes)):
            raise ValueError(f"sizes = {self.sizes}: they must grow, such as [8, 16, 32]")
        return self


class ConfirmSection(Section):
    """The confirmation: the tuned schedule beside the constant batch, at equal tokens."""

    tokens: Span = Field(default="25%", description="tokens of each of these runs")
    seeds: Seeds = Field(default=[0, 1, 2], description="both are trained with each of these")

    @model_validator(mode="after")
    def _several(self) -> ConfirmSection:
        _differ(self.seeds, "seeds")
        if len(self.seeds) < 2:
            raise ValueError("seeds: give two or more, as one can't tell a difference from noise")
        return self


class TuningConfig(Section):
    """Everything that defines a tuning."""

    tuning: TuningSection
    base: str = Field(description="path, from the tuning's file, of the run config to tune")
    overrides: list[str] = Field(
        default_factory=list, description="changes of the base, each as dotted.key=value"
    )
    phases: list[Phase] = Field(
        default=list(PHASES),
        min_length=1,
        description="what is looked for: the largest micro_batch that fits, the range of the rate, "
        "the critical batch size, and whether the result holds (confirm)",
    )
    range: RangeSection = RangeSection()
    critical: CriticalSection = CriticalSection()
    confirm: ConfirmSection = ConfirmSection()
    devices: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        min_length=1,
        description="numbers of devices to say time and money for; powers of two if left out",
    )
    concurrent: int = Field(
        default=1, ge=1, description="stages of training at the same time, as of a sweep"
    )

    @model_validator(mode="after")
    def _phases_differ(self) -> TuningConfig:
        if len(set(self.phases)) < len(self.phases):
            raise ValueError(f"phases = {self.phases}: give each phase once")
        return self

    def spans(self, horizon: int) -> dict[str, int]:
        """Tokens of each key that has a span, by key, for a run of `horizon` tokens."""
        return {
            "range.tokens": span_tokens(self.range.tokens, horizon),
            "critical.tokens": span_tokens(self.critical.tokens, horizon),
            "confirm.tokens": span_tokens(self.confirm.tokens, horizon),
        }


def load_tuning(path: str | Path, overrides: Any = ()) -> TuningConfig:
    """The config of a tuning, from its own file or from that of the run to tune.

    A run's file is tuned by the defaults, in a folder that is called after the run. Overrides of
    keys that a tuning has are the tuning's, all others are the run's.

    Raises:
        ConfigError: as `load`; or if there is no such base.
    """
    written = read(path)
    if "tuning" in written.data:
        return located(build(read(path, overrides), TuningConfig), Path(path), str(path))
    own = [text for text in overrides if _root(text) in TuningConfig.model_fields]
    others = [text for text in overrides if _root(text) not in TuningConfig.model_fields]
    run = build(read(path, others), RunConfig)
    section = {"name": f"{run.run.name}-tuned"[:64], "storage": run.run.storage}
    data = {"tuning": section, "base": str(Path(path).resolve()), "overrides": others}
    return build(_overridden(given(data, str(path)), own), TuningConfig)


def _root(override: str) -> str:
    return override.partition("=")[0].partition(".")[0]


def _overridden(written: Written, overrides: list[str]) -> Written:
    """`written` with overrides of the command line."""
    from manta.config.document import parse_value

    values = {}
    for text in overrides:
        dotted, _, value = text.partition("=")
        values[dotted] = parse_value(value).data
    return change(written, values, dict.fromkeys(values, "command line"))


def located(config: TuningConfig, path: Path, source: str) -> TuningConfig:
    """A tuning's config with the absolute path of its base, which is relative to its own file.

    Raises:
        ConfigError: if there is no such file; the message calls the config `source`.
    """
    folder = path.resolve().parent
    if not (folder / config.base).is_file():
        raise ConfigError(
            f"{source}: base = '{config.base}': no such file in {folder}; give its path relative "
            "to that folder"
        )
    return config.model_copy(update={"base": str(folder / config.base)})


def read_tuned(config: TuningConfig) -> Written:
    """The run to tune, with the tuning's overrides.

    Raises:
        ConfigError: if file or overrides can't be read.
    """
    return read(config.base, config.overrides, origin="overrides of the tuning")

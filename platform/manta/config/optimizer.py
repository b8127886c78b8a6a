"""The section `optimizer`: by which updates weights are trained, at the schedule's rate."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from manta.config.on_change import OnChange, key
from manta.config.section import Section
from manta.config.units import Span, span_tokens

# Type → the keys of the section that only these types take.
OWN_KEYS = {
    "betas": ("adamw", "muon", "lion"),
    "eps": ("adamw", "muon"),
    "momentum": ("muon", "sgd"),
    "nesterov": ("muon", "sgd"),
    "adjust_lr": ("muon",),
    "by_adamw": ("muon",),
    "cautious": ("adamw", "muon", "lion"),
}
# The defaults of Lion's paper; and where a momentum is left out, of Torch's Muon and of what
# networks for vision are trained with by SGD.
LION_BETAS = (0.9, 0.99)
MOMENTUM, NESTEROV = {"muon": 0.95, "sgd": 0.9}, {"muon": True, "sgd": False}


class OptimizerGroup(Section):
    """Weights, by patterns of their names, that have a rate and a decay of their own."""

    on_change: ClassVar[OnChange] = OnChange.FORK

    names: list[str] = Field(
        min_length=1,
        description="patterns of parameter names, as in model.freeze; a weight is in the first "
        "group that names it",
    )
    lr: float = Field(default=1.0, ge=0, description="factor of the schedule's learning rate")
    decay: float = Field(
        default=1.0, ge=0, description="factor of the weight decay, for weights that decay"
    )


class AverageSection(Section):
    """An exponential moving average of the weights, evaluated and saved beside them."""

    on_change: ClassVar[OnChange] = OnChange.START

    half_life: Span = Field(
        description="tokens after which weights count half as much in the average; such as 1%"
    )

    @field_validator("half_life")
    @classmethod
    def _is_a_stretch(cls, value: int | str) -> int | str:
        if value in (0, "0%"):
            raise ValueError("must be more than 0 tokens")
        return value

    def tokens(self, horizon: int) -> int:
        """The half-life in tokens, at least 1, of a run with a horizon."""
        return max(1, span_tokens(self.half_life, horizon))


class OptimizerSection(Section):
    """Which update trains the weights. The learning rate is the schedule's."""

    on_change: ClassVar[OnChange] = OnChange.FORK

    type: Literal["adamw", "muon", "lion", "sgd"] = key(
        OnChange.START,
        default="adamw",
        description="adamw (Loshchilov & Hutter, 2019); muon for matrices between embeddings and "
        "output layer (Jordan, 2024; Torch's own), adamw for all else; lion (Chen et al., 2023); "
        "sgd with momentum",
    )
    # beta2 and the weight decay are those of GPT-3 (Brown et al., 2020) and most since.
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.95),
        description="decay rates of the first and the second moment, per step; of lion's sign and "
        "of its momentum, [0.9, 0.99] if left out",
    )
    eps: float = Field(
        default=1e-8,
        gt=0,
        description="added to the root of the second moment, against division by zero",
    )
    weight_decay: float = Field(
        default=0.1,
        ge=0,
        description="share of a weight, times the learning rate, that is subtracted each step; "
        "sgd adds it to the gradient, as an L2 penalty does",
    )
    decay_all: bool = Field(
        default=False, description="weight decay for norms, biases and embeddings, too"
    )
    cautious: bool = Field(
        default=False,
        description="weight decay only where the update makes a weight smaller, too (Chen et al., "
        "2025)",
    )
    momentum: float | None = key(
        OnChange.START,
        default=None,
        ge=0,
        lt=1,
        description="decay rate of the momentum of muon, 0.95 if left out, or of sgd, 0.9",
    )
    nesterov: bool | None = Field(
        default=None,
        description="Nesterov's momentum; if left out, muon has it and sgd has not",
    )
    adjust_lr: Literal["match_rms_adamw", "original"] = Field(
        default="match_rms_adamw",
        description="factor of muon's rate by a matrix's shape; match_rms_adamw: 0.2 √(longer "
        "side), so that one rate fits both updates (Liu et al., 2025); original: √(rows / "
        "columns), at least 1",
    )
    by_adamw: list[str] = key(
        OnChange.START,
        default_factory=list,
        description="with muon: matrices that get AdamW's update all the same, patterns of "
        "parameter names",
    )
    groups: list[OptimizerGroup] = Field(
        default_factory=list, description="weights with a rate and a decay of their own"
    )
    average: AverageSection | None = key(
        OnChange.START,
        default=None,
        description="an average of the weights, evaluated as val_loss_average, and exported by "
        "`manta export --average`; null: none",
    )

    @property
    def numbers_kept(self) -> int:
        """How many numbers are kept of each trained weight; of muon at most, for some."""
        moments = {"adamw": 2, "muon": 2, "lion": 1, "sgd": 1}[self.type]
        if self.type == "sgd" and not self.momentum_used:
            moments = 0
        return moments + (self.average is not None)

    @property
    def momentum_used(self) -> float:
        """The momentum of muon or sgd."""
        return MOMENTUM[self.type] if self.momentum is None else self.momentum

    @property
    def nesterov_used(self) -> bool:
        """Whether the momentum of muon or sgd is Nesterov's."""
        return NESTEROV[self.type] if self.nesterov is None else self.nesterov

    @model_validator(mode="before")
    @classmethod
    def _betas_of_lion(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("type") == "lion" and "betas" not in values:
            return {**values, "betas": LION_BETAS}
        return values

    @model_validator(mode="after")
    def _keys_fit_the_type(self) -> OptimizerSection:
        # Compare values, as a dumped config has every key and must load.
        for name, types in OWN_KEYS.items():
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if self.type not in types and getattr(self, name) != default:
                raise ValueError(f"'{name}' is only for {' and '.join(types)}, not for {self.type}")
        if self.type == "sgd" and self.nesterov and not self.momentum_used:
            raise ValueError("'nesterov' needs a 'momentum' above 0")
        return self

"""Config of mixtures: how much of a run's samples comes from which source, and when."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from manta.config.on_change import OnChange
from manta.config.schedule import BOTH_ENDS, Rate, SegmentSpec, check_values
from manta.config.section import Section
from manta.config.units import PositiveTokens, Span


class WeightSegment(Section):
    """A segment of a weight, as of a schedule, but straight: its integral has a closed form.

    A curve is written as several linear segments.
    """

    shape: Literal["constant", "linear"] = Field(
        default="constant", description="shape of the way from the first to the last value"
    )
    tokens: Span | None = Field(default=None, description="length of the segment")
    until: Span | None = Field(default=None, description="end of the segment; in place of `tokens`")
    start: Annotated[Rate, Field(ge=0)] | None = Field(
        default=None,
        alias="from",
        description="first weight; if left out, the last one of the segment before",
    )
    end: Annotated[Rate, Field(ge=0)] | None = Field(
        default=None, alias="to", description="last weight; a constant segment has none"
    )

    @model_validator(mode="after")
    def _is_a_segment(self) -> WeightSegment:
        check_values(self.shape, self.start, self.end)
        if self.tokens is not None and self.until is not None:
            raise ValueError(BOTH_ENDS)
        return self

    @property
    def spec(self) -> SegmentSpec:
        """The same segment of a schedule."""
        return SegmentSpec.model_validate(dict(self))


def _form(value: Any) -> str:
    return "segments" if isinstance(value, list | tuple) else "number"


WeightSpec = Annotated[
    Annotated[Rate, Field(ge=0), Tag("number")]
    | Annotated[list[WeightSegment], Field(min_length=1), Tag("segments")],
    Discriminator(_form),
]


class MixedSource(Section):
    """How much of the samples comes from one source."""

    weight: WeightSpec | None = Field(
        default=None,
        description="share of the samples, relative to the other weights: a number, or a list of "
        "segments; if left out for all sources, their numbers of samples",
    )
    max_epochs: float | None = Field(
        default=None,
        gt=0,
        description="most epochs over the source in the whole run; more are refused before it runs",
    )


class MixtureParts(Section):
    """Sources and their weights."""

    sources: dict[str, MixedSource] = Field(
        min_length=1,
        description="name of a source of the corpus: its weight; a source that isn't named is not "
        "trained on",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="shares are weights to the power of 1/temperature, scaled to a sum of 1: above "
        "1 small sources get more, towards equal shares",
    )

    @model_validator(mode="after")
    def _all_or_none(self) -> MixtureParts:
        given = [name for name, source in self.sources.items() if source.weight is not None]
        without = [name for name in self.sources if name not in given]
        if given and without:
            raise ValueError(
                f"'sources.{given[0]}' has a weight, but 'sources.{without[0]}' has none: give one "
                "to every source, or to none"
            )
        for name in given:
            if not _is_ever_taken(self.sources[name].weight):
                raise ValueError(
                    f"'sources.{name}.weight' is always 0: remove the source, which leaves it out"
                )
        return self


def _is_ever_taken(weight: WeightSpec | None) -> bool:
    """Whether a weight is above 0 anywhere."""
    if isinstance(weight, list):
        return any(spec.start or spec.end for spec in weight)
    return weight is None or weight > 0


class PastMixture(Section):
    """The mixture that was in force up to a token count, in runs that were forked."""

    until: PositiveTokens = Field(description="token count up to which this mixture was in force")
    horizon: PositiveTokens | None = Field(
        default=None, description="horizon that its shares refer to; schedule.horizon if left out"
    )
    mixture: MixtureParts | None = Field(
        default=None, description="as data.mixture; if left out, the run had no mixture"
    )


class MixtureSection(MixtureParts):
    """A mixture of the corpus's sources, by weights that are functions of the tokens consumed.

    If a fork changed the mixture, `history` has the earlier ones in order.
    """

    on_change: ClassVar[OnChange] = OnChange.FORK

    history: list[PastMixture] = Field(
        default_factory=list, description="mixtures that were in force before, in order"
    )

    @model_validator(mode="after")
    def _in_order(self) -> MixtureSection:
        ends = [past.until for past in self.history]
        if ends != sorted(set(ends)):
            raise ValueError("'history': each 'until' must be above the one before")
        return self

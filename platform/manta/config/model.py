"""The base of every config section: strict, immutable, printable."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One level of a config file. Unknown keys are errors; values never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        serialize_by_alias=True,
        validate_default=True,
        allow_inf_nan=False,
    )

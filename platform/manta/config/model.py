"""The section `model` of a run's config."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, JsonValue, model_validator

from manta.config.on_change import OnChange
from manta.config.section import Section


class ModelSection(Section):
    """A Hugging Face causal language model, by type and sizes or pretrained; or one of your own."""

    on_change: ClassVar[OnChange] = OnChange.START

    type: str | None = Field(
        default=None,
        description="model_type of Transformers, such as llama, to train from scratch; or a class "
        "in a file of your own, such as ./mine.py:Net",
    )
    sizes: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="fields of the Transformers config of model.type; what a class of your own is "
        "called with",
    )
    pretrained: str | None = Field(
        default=None,
        description="model to start from: a folder of Transformers, a name on its Hub, NAME or "
        "NAME@REVISION, or a run, RUN or RUN@STEP",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if (self.type is None) == (self.pretrained is None):
            raise ValueError(
                "give either 'type' (with 'sizes') or 'pretrained'; to replace the file's section "
                "as a whole, write 'model={pretrained: PATH}'"
            )
        if self.pretrained is not None and self.sizes:
            raise ValueError("'sizes' is only for 'type'; a pretrained model brings its own sizes")
        return self

"""The section `model` of a run's config."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from manta.config.on_change import OnChange, key
from manta.config.section import Section

# How frozen weights may be held in fewer bits than a number format of Torch's has.
Quantize = Literal["int8", "nf4"]


class AdapterSection(Section):
    """Low-rank matrices that are trained beside frozen weights (LoRA: Hu et al., 2021)."""

    on_change: ClassVar[OnChange] = OnChange.START

    type: Literal["lora"] = Field(default="lora", description="which kind of adapter")
    rank: int = Field(default=16, ge=1, description="rank of the matrices that are trained")
    alpha: int | None = Field(
        default=None,
        ge=1,
        description="scale of what the matrices add: alpha / rank, with rslora alpha / √rank; "
        "twice the rank if left out",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of an adapter's inputs that are dropped"
    )
    targets: Literal["all-linear"] | list[str] = Field(
        default="all-linear",
        min_length=1,
        description="layers that get an adapter: all linear ones but the output layer, or the ends "
        "of their names, such as [q_proj, v_proj]",
    )
    rslora: bool = Field(
        default=False,
        description="scale by alpha / √rank, for high ranks (Kalajdzievski, 2023)",
    )
    dora: bool = Field(
        default=False,
        description="train each weight's magnitude apart from its direction (Liu et al., 2024)",
    )


class ParametrizationSection(Section):
    """First values, rates and decays by width and depth, so that one learning rate fits all sizes.

    All is as usual at the sizes of the base, at which the learning rate is to be found.
    """

    on_change: ClassVar[OnChange] = OnChange.START

    type: Literal["mup", "completep"] = Field(
        description="mup: over widths (Yang et al., 2021); completep: over widths and depths (Dey "
        "et al., 2025)"
    )
    base_width: int = Field(ge=1, description="hidden_size of the base")
    base_depth: int | None = Field(
        default=None, ge=1, description="completep: num_hidden_layers of the base"
    )

    @model_validator(mode="after")
    def _depth_fits_the_type(self) -> ParametrizationSection:
        if (self.type == "completep") != (self.base_depth is not None):
            raise ValueError("completep needs 'base_depth', and mup takes none")
        return self


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
        "NAME@REVISION, a run, RUN or RUN@STEP, or registry:NAME@ALIAS",
    )

    parametrization: ParametrizationSection | None = Field(
        default=None,
        description="mup or completep, for models from scratch like Llama, and adamw; null: as "
        "Transformers does it",
    )
    adapter: AdapterSection | None = Field(
        default=None,
        description="train an adapter and freeze the pretrained weights; needs PEFT, the extra "
        "`adapt`",
    )
    train: list[str] = Field(
        default_factory=list,
        description="weights that are trained, all others being frozen: patterns of parameter "
        "names, such as '*embed_tokens*' or 'model.layers.{20..23}.*'; with an adapter: those that "
        "are trained beside it",
    )
    freeze: list[str] = Field(
        default_factory=list,
        description="weights that are frozen, all others being trained: patterns of parameter "
        "names, such as 'model.layers.{0..7}.*'",
    )
    frozen_dtype: Literal["fp32", "bf16"] = Field(
        default="fp32", description="number format in which frozen weights are held"
    )
    quantize: Quantize | None = key(
        OnChange.FORK,
        default=None,
        description="hold the frozen linear layers beside an adapter in 8 bits (int8) or 4 (nf4, "
        "as QLoRA does), all others in frozen_dtype; needs bitsandbytes, the extra `quantize`",
    )

    grow_vocabulary: bool = Field(
        default=False,
        description="add rows for tokens of the corpus that a pretrained model lacks, each the "
        "mean of the others; tokenizer.add of a corpus adds tokens",
    )

    @property
    def freezes(self) -> bool:
        """Whether some weights are not trained."""
        return bool(self.adapter or self.train or self.freeze)

    @property
    def keeps_what_it_began_with(self) -> bool:
        """Whether the model without its adapter is the one that the run began with."""
        return self.adapter is not None and not self.train

    @property
    def rounds_the_base(self) -> bool:
        """Whether frozen weights are held in fewer bits than the pretrained model has."""
        return self.frozen_dtype != "fp32" or self.quantize is not None

    @model_validator(mode="after")
    def _what_is_trained_is_clear(self) -> ModelSection:
        if self.freeze and (self.train or self.adapter):
            other = "train" if self.train else "adapter"
            raise ValueError(
                f"'freeze' and '{other}' both say what is frozen: leave 'freeze' out, "
                f"for '{other}' freezes all else"
            )
        if self.adapter and self.pretrained is None:
            raise ValueError(
                "'adapter' is for a pretrained model: set 'pretrained' to a folder, a name on the "
                "Hub, or a run"
            )
        if self.grow_vocabulary and self.pretrained is None:
            raise ValueError("'grow_vocabulary' is for a pretrained model: set model.sizes instead")
        if self.frozen_dtype != "fp32" and not self.freezes:
            raise ValueError(
                "'frozen_dtype' is for frozen weights: set 'adapter', 'train' or 'freeze'"
            )
        return self

    @model_validator(mode="after")
    def _quantized_beside_an_adapter(self) -> ModelSection:
        if self.quantize and not self.adapter:
            raise ValueError(
                f"'quantize' = '{self.quantize}' rounds frozen weights, and what is trained in "
                "their place is an adapter: set 'adapter', or leave 'quantize' out"
            )
        return self

    @model_validator(mode="after")
    def _parametrized_from_scratch(self) -> ModelSection:
        if self.parametrization and self.pretrained is not None:
            raise ValueError(
                "'parametrization' gives a model its first values: it is for 'type' with 'sizes', "
                "and not for a pretrained model"
            )
        return self

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

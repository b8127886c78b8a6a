"""The config of a look at drift: how much of the data is drawn, and what counts as a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from manta.config.load import build, folder_of, read
from manta.config.section import Section
from manta.config.urls import is_url

Threshold = float | None


class DriftLimits(Section):
    """Values above which a measure has drifted, if it is beyond noise; null only shows it."""

    lengths_psi: Threshold = Field(
        default=0.25, gt=0, description="population stability index of the lengths of documents"
    )
    lengths_ks: Threshold = Field(
        default=0.15, gt=0, le=1, description="Kolmogorov-Smirnov distance of the lengths"
    )
    tokens_psi: Threshold = Field(
        default=0.25, gt=0, description="population stability index of tokens"
    )
    sources_psi: Threshold = Field(
        default=0.25, gt=0, description="population stability index of sources"
    )
    loss_rise: Threshold = Field(
        default=0.1, gt=0, description="rise of the model's loss, in nats a token"
    )
    loss_ks: Threshold = Field(
        default=0.2, gt=0, le=1, description="Kolmogorov-Smirnov distance of documents' losses"
    )
    embedding_mmd: Threshold = Field(
        default=0.05,
        gt=0,
        description="squared maximum mean discrepancy of documents' mean hidden states",
    )


class DriftConfig(Section):
    """How data is compared with the data of a corpus or run."""

    documents: int = Field(
        default=1000,
        ge=20,
        le=5000,
        description="most documents to draw of either side, by the seed; memory grows by its "
        "square, 3 GB at 5,000",
    )
    seed: int = Field(default=0, ge=0, description="seed of the draw and of the permutations")
    split: Literal["train", "validation"] | None = Field(
        default=None,
        description="split of the reference; by default validation if it has one: a model's loss "
        "on what it was trained on is lower",
    )
    text: str = Field(default="text", description="column of the text in a file that is no corpus")
    language_model: str | None = Field(
        default=None,
        description="run or exported model for losses and hidden states; by default the run of "
        "--against",
    )
    length: int = Field(
        default=512, ge=2, description="most tokens of a document that the model is given"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="device of the model; auto takes a GPU if there is one"
    )
    permutations: int = Field(
        default=999, ge=199, description="permutations by which noise is measured"
    )
    limits: DriftLimits = Field(default_factory=DriftLimits)


class _Defaults:
    """A config file without a key."""

    def read_text(self, encoding: str) -> str:
        """The text of an empty mapping."""
        return "{}"

    def __str__(self) -> str:
        return "the defaults"


def load_drift(path: str | Path | None, overrides: Any = ()) -> DriftConfig:
    """The config in a file, or all defaults with the overrides; the path of its model is absolute.

    Raises:
        ConfigError: as `load`.
    """
    written = read(_Defaults() if path is None else path, overrides)
    config = build(written, DriftConfig)
    if (
        config.language_model is None
        or is_url(config.language_model)
        or config.language_model.startswith("registry:")
    ):
        return config
    model = folder_of(written, "language_model") / Path(config.language_model).expanduser()
    return config.model_copy(update={"language_model": str(model.absolute())})

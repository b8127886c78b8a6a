"""Models that a run's config names: which keys do, and how a name on the Hub is taken apart."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from manta.config.run import RunConfig

# A name on the Hub of Hugging Face, ORG/NAME, and one of its commits, tags or branches.
REVISED = re.compile(r"([\w.-]+(?:/[\w.-]+)?)@([\w./-]+)")

# File by which PEFT says what an adapter is for.
ADAPTER_CONFIG = "adapter_config.json"


class HubName(NamedTuple):
    """What `from_pretrained` of Transformers is called with.

    Attributes:
        name: folder, or name of a model on the Hub.
        revision: commit, tag or branch on the Hub; of a folder it says nothing.
    """

    name: str
    revision: str = "main"


def hub_name(pretrained: str) -> HubName:
    """A folder, ``ORG/NAME`` or ``ORG/NAME@REVISION``, taken apart."""
    found = REVISED.fullmatch(pretrained)
    if found is None or os.path.isdir(pretrained):
        return HubName(pretrained)
    return HubName(*found.groups())


def holds_adapter_alone(folder: Path) -> bool:
    """Whether a folder is PEFT's: an adapter without the model that it is for."""
    return (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()


@dataclass(frozen=True)
class NamedModel:
    """A model that a config names.

    Attributes:
        key: dotted config key.
        name: folder of Transformers, name on its Hub, or a run.
    """

    key: str
    name: str

    def renamed(self, config: RunConfig, name: str) -> RunConfig:
        """The config with another name of the model."""
        section, _, field = self.key.partition(".")
        changed = getattr(config, section).model_copy(update={field: name})
        return config.model_copy(update={section: changed})


def named_models(config: RunConfig) -> Iterator[NamedModel]:
    """All models that a run loads weights of."""
    if config.model.pretrained is not None:
        yield NamedModel("model.pretrained", config.model.pretrained)
    if config.objective.teacher is not None:
        yield NamedModel("objective.teacher", config.objective.teacher)


def frozen_model(config: RunConfig) -> NamedModel | None:
    """The model with frozen weights that the objective compares with; None if it needs none."""
    if config.objective.teacher is not None:
        return NamedModel("objective.teacher", config.objective.teacher)
    model, objective = config.model, config.objective
    kept = model.keeps_what_it_began_with and objective.reference == "model"
    if objective.compares and model.pretrained and not kept:
        return NamedModel("model.pretrained", model.pretrained)
    return None

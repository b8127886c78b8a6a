"""What a registry of models says of one version: weights, gates, lineage, and each of its files."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from manta.config.errors import ConfigError, RunError
from manta.config.mistakes import in_a_line
from manta.record.gate_record import GateRecord
from manta.record.model_origin import ModelOrigin
from manta.storage.place import Place
from manta.storage.run_folder import VERSION
from manta.storage.seal import read_sealed

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# An alias begins with a letter, so that it is never taken for a version's number.
ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
REGISTRY = "registry:"
# Folder of the model in that of a version.
WEIGHTS_FOLDER = "model"


class VersionFile(BaseModel):
    """One file of a version's model.

    Attributes:
        bytes: size of the file.
        sha256: SHA-256 of the content.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class ModelVersion(BaseModel):
    """The whole of a version's `version.json`.

    Attributes:
        format: version of the file's format.
        name: name of the model in the registry.
        version: number of the version, from 1.
        created: time of the promotion in UTC.
        user: name of the user who promoted it.
        host: name of the machine.
        manta_version: version of Manta that promoted it.
        source: place of the run or exported model that it was copied from.
        step: step of the run's checkpoint; None for an exported folder.
        parameters: number of weights.
        fingerprint: SHA-256 of names, types, shapes and values of all weights.
        gates: decisions on the model, each as it was.
        without_gate: reason for which it was let in without a passed gate; "" with one.
        values: metrics of the evaluation that the gates looked at.
        origin: run, step, tokens, corpus and config of the weights, if known.
        files: path in the version's folder `model` → the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = 2
    name: str
    version: int
    created: str
    user: str
    host: str
    manta_version: str
    source: str
    step: int | None = None
    parameters: int
    fingerprint: str
    gates: list[GateRecord] = Field(default_factory=list)
    without_gate: str = ""
    values: dict[str, float] = Field(default_factory=dict)
    origin: ModelOrigin | None = None
    files: dict[str, VersionFile] = Field(default_factory=dict)

    @property
    def passed(self) -> list[str]:
        """Names of the gates that it passed."""
        return [gate.name for gate in self.gates if gate.passed]


def read_version(folder: Place) -> ModelVersion:
    """What a version's folder says of it.

    Raises:
        RunError: if it can't be read, or is not as it was written.
    """
    path = folder / VERSION
    try:
        return ModelVersion.model_validate_json(read_sealed(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: can't be read as a version of a model: {in_a_line(error)}; restore the file "
            "from a copy, or roll back to another version"
        ) from None


def split_name(text: str) -> tuple[str, str]:
    """``NAME@TAG`` as name and tag, a version's number or an alias; the tag is "" without one.

    Raises:
        ConfigError: if it is no such name.
    """
    name, at, tag = text.partition("@")
    if not MODEL_NAME.fullmatch(name) or (at and not (tag.isdecimal() or ALIAS.fullmatch(tag))):
        raise ConfigError(
            f"{text}: write NAME, NAME@VERSION or NAME@ALIAS, such as chat@champion: names have "
            "letters, digits, '.', '_' and '-', and an alias begins with a letter"
        )
    return name, tag

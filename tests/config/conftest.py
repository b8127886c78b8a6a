"""Configs from texts: loaded, or refused with a message."""

from pathlib import Path

import pytest

from manta.config import ConfigError, RunConfig, load


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a config into the current folder, so that messages name it shortly."""
    monkeypatch.chdir(tmp_path)

    def to_file(text, name="run.yaml"):
        Path(name).write_text(text, encoding="utf-8")
        return name

    return to_file


@pytest.fixture
def refused(write):
    """Loads a text that must be refused; returns the lines of the message."""

    def message(text, *overrides, kind=RunConfig):
        with pytest.raises(ConfigError) as caught:
            load(write(text), kind, overrides)
        return str(caught.value).splitlines()

    return message


@pytest.fixture
def loaded(write):
    def from_text(text, *overrides, kind=RunConfig):
        return load(write(text), kind, overrides)

    return from_text

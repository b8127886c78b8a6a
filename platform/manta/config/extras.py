"""Packages that only some runs and corpora need: the extras of an installation."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from manta.config.errors import ConfigError


def import_extra(module: str, key: str, extra: str) -> Any:
    """A package that an extra brings.

    Args:
        module: name of the package to import.
        key: dotted config key that needs it.
        extra: the extra.

    Raises:
        ConfigError: if it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError:
        raise ConfigError(
            f"{key} needs the package {module}, which is not installed: "
            f"pip install 'manta-train[{extra}]'"
        ) from None

"""Configs: their types, loading, units and errors.

The bottom layer. Importing it loads neither Ray nor Torch, so that a wrong config is refused at
once.
"""

from manta.config.corpus import CorpusConfig
from manta.config.errors import ConfigError, MantaError
from manta.config.load import dump, load
from manta.config.run import RunConfig
from manta.config.sweep import SweepConfig, load_sweep

__all__ = [
    "ConfigError",
    "CorpusConfig",
    "MantaError",
    "RunConfig",
    "SweepConfig",
    "dump",
    "load",
    "load_sweep",
]

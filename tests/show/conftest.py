"""The fixtures of recorded runs, which tests of `manta.record` and `manta.show` share."""

from recorded_runs import (
    _no_credentials,
    api_key,
    clock,
    make_config,
    manifest,
    other_manifest,
    sweep,
    training_row,
    wandb_server,
)

__all__ = [
    "_no_credentials",
    "api_key",
    "clock",
    "make_config",
    "manifest",
    "other_manifest",
    "sweep",
    "training_row",
    "wandb_server",
]

"""An objective that is not Manta's plain one is tried before a worker is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from manta.config.errors import ConfigError
from manta.config.model_names import frozen_model
from manta.config.run import RunConfig

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from manta.corpus.manifest import Manifest
    from manta.model.own_net import OwnNet
    from manta.objective.protocol import Objective
    from manta.sample.columns import Columns

# Of the batch that is tried: few enough for a moment's work, enough to be split in many ways.
SAMPLES, LENGTH = 6, 32


def try_objective(
    config: RunConfig, manifest: Manifest, resolved: PretrainedConfig | OwnNet
) -> None:
    """Try an objective of the user's own, or a balance of experts, on a small model.

    An objective with terms of its own is tried on real samples.
    Manta's own plain objective is exact by Manta's tests.

    Args:
        config: the run's config.
        manifest: manifest of the run's corpus.
        resolved: the run's resolved model.

    Raises:
        ConfigError: if it can't be made or fails, or is not exact, with the reason.
    """
    section = config.objective
    if not (section.is_own or section.balance or section.bias_rate):
        return
    from manta.model import randomness, routers, small, visibility
    from manta.model.own_net import OwnNet
    from manta.objective.choose import objective_of
    from manta.objective.exactness import check_objective

    objective = objective_of(config, resolved)
    lm: nn.Module
    frozen: nn.Module | None = None
    if isinstance(resolved, OwnNet):
        lm, vocabulary = resolved.build(config.run.seed), None
    else:
        little = small.small_of(resolved, small.skeleton(resolved))
        if little is None:
            return  # there is no small model of its kind
        for key in randomness.drawn_by(little):
            setattr(little.get_text_config(), key, 0.0)
        lm = visibility.made(little)
        if frozen_model(config) is not None:  # of one kind, so that their vocabularies are one
            frozen = visibility.made(little, seed=1)
        vocabulary = little.get_text_config().vocab_size
    if section.bias_rate:
        routers.biases_of(lm)
    if not (section.is_own or section.balance):
        return
    if frozen is None and frozen_model(config) is not None:
        return  # a model of the user's own has none of its kind to compare with
    batch = _batch(config, manifest, objective, vocabulary)
    try:
        check_objective(objective, lm, batch, frozen=frozen)
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(
            f"objective.type = '{config.objective.type}' fails on a small model and {SAMPLES} "
            f"samples of {config.corpus}: {_where(error, config)}{type(error).__name__}: {error}"
        ) from error


def _batch(
    config: RunConfig, manifest: Manifest, objective: Objective, vocabulary: int | None
) -> Columns:
    """Some short samples of the run's corpus, whose tokens the small model has."""
    from manta.stream.own_format import format_of
    from manta.stream.plan import open_corpus, reader_of

    length, form = min(LENGTH, config.train.seq_len), format_of(config, manifest)
    corpus = open_corpus(config.corpus, manifest, "train", length, config.run.seed, form)
    batch = dict(reader_of(corpus).read(np.arange(SAMPLES)))
    missing = sorted(objective.columns - batch.keys())
    if missing:
        raise ConfigError(
            f"objective.type = '{config.objective.type}' needs the column "
            f"{', '.join(missing)} of a sample; those of {config.corpus} have {', '.join(batch)}"
        )
    if "tokens" in batch and vocabulary is not None:
        batch["tokens"] = batch["tokens"] % vocabulary
    return batch


def _where(error: Exception, config: RunConfig) -> str:
    """The line of the user's file from which an error came, if one did."""
    import traceback

    file = config.objective.type.rpartition(":")[0]
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == file), None)
    return f"{file}:{line}: " if line else ""

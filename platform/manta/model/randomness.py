"""Random numbers that a model draws in training: dropout and the like."""

from __future__ import annotations

import re

from transformers import PretrainedConfig

# The shares and amplitudes of them in models' configs, by their usual names.
KEY = re.compile(r"drop|jitter")
# Of heads that a language model hasn't.
ELSEWHERE = re.compile(r"classifier|summary|cls_|classif")


def drawn_by(resolved: PretrainedConfig) -> dict[str, float]:
    """The settings by which a model of this config draws random numbers, and their values."""
    text = resolved.get_text_config()
    return {
        name: value
        for name, value in vars(text).items()
        if KEY.search(name)
        and not ELSEWHERE.search(name)
        and isinstance(value, float)
        and value > 0
    }


def remark(resolved: PretrainedConfig) -> str:
    """What there is to say of a run whose model draws random numbers in training."""
    named = ", ".join(f"{name} = {value:g}" for name, value in drawn_by(resolved).items())
    return (
        f"training draws random numbers ({named or 'dropout or the like'}), others with another "
        "train.micro_batch or number of workers: the samples of each step are exact all the same, "
        "its loss is not"
    )

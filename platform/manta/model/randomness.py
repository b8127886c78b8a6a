"""Random numbers that a model draws in training: dropout and the like."""

from __future__ import annotations

import re

from torch import nn
from transformers import PretrainedConfig

from manta.config.model import AdapterSection

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
    drawn = drawn_by(resolved)
    named = ", ".join(f"{name} = {value:g}" for name, value in drawn.items())
    where = ", ".join(drawn) or "what draws them"
    remedy = f"set {where} to 0 in model.sizes, or in the config.json of a pretrained model's copy"
    return _said(named or "dropout or the like", remedy)


def remarks_of_adapter(adapter: AdapterSection | None) -> tuple[str, ...]:
    """The same of a run's adapter."""
    if adapter is None or not adapter.dropout:
        return ()
    return (_said(f"model.adapter.dropout = {adapter.dropout:g}", "set it to 0"),)


def remarks_of_own(net: nn.Module) -> tuple[str, ...]:
    """The same of a model of the user's own, as far as its layers of Torch tell."""
    drops = [
        name for name, layer in net.named_modules() if getattr(layer, "p", 0) and is_drop(layer)
    ]
    if not drops:
        return ()
    return (_said(f"dropout in {', '.join(drops)}", "leave these layers out, or give them p = 0"),)


def is_drop(layer: nn.Module) -> bool:
    """Whether a layer is one of Torch's kinds of dropout."""
    return isinstance(layer, nn.modules.dropout._DropoutNd)


def _said(drawn: str, remedy: str) -> str:
    return (
        f"training draws random numbers ({drawn}), other ones with another train.micro_batch or "
        "number of workers: the samples of each step are exact all the same, its loss is not. For "
        f"the same loss at any number of workers {remedy}"
    )

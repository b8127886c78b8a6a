"""Routers of a model's experts: which modules they are, what they choose, and their bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from manta.config.errors import ConfigError

# A bias of each expert that is added to its score for the choice alone, as types of Transformers
# call it. It is on the router, in a part of it, or on the layer of experts.
BIASES = ("e_score_correction_bias", "expert_bias")


def routers_of(lm: nn.Module) -> dict[str, nn.Module]:
    """The routers of a model by name, by what Transformers records of the model's outputs."""
    kinds = tuple({kind for module in lm.modules() for kind in _router_kinds(module)})
    return {name: module for name, module in lm.named_modules() if isinstance(module, kinds)}


def _router_kinds(module: nn.Module) -> list[type[nn.Module]]:
    """The classes of routers that a module records."""
    recorded = getattr(module, "_can_record_outputs", None) or {}
    found = recorded.get("router_logits", [])
    listed = found if isinstance(found, list) else [found]
    kinds = [getattr(one, "target_class", one) for one in listed]
    return [kind for kind in kinds if isinstance(kind, type)]


def choice_of(router: nn.Module, output: Any, key: str) -> tuple[Tensor, Tensor]:
    """What a router returned: logits (tokens, experts), and experts of each token, int64.

    Raises:
        ConfigError: if it returns something else, naming the key of the config that needs it.
    """
    if isinstance(output, tuple) and len(output) == 3:
        logits, _, chosen = output
        if logits.ndim == chosen.ndim == 2 and not chosen.is_floating_point():
            return logits, chosen
    raise ConfigError(
        f"{key}: {type(router).__name__} does not return scores and the chosen experts; set "
        f"{key}: 0, or take another model"
    )


@dataclass(frozen=True)
class Bias:
    """Where a router's bias for the choice of experts is.

    Attributes:
        owner: the module that has it.
        name: the bias's name in the router.
    """

    owner: nn.Module
    name: str

    @property
    def value(self) -> Tensor:
        """The bias as it is now: a module gets other tensors when it is laid over devices."""
        value: Tensor = getattr(self.owner, self.name)
        return value


def biases_of(lm: nn.Module) -> dict[str, Bias]:
    """The bias for the choice of experts of each router, by the router's name.

    Raises:
        ConfigError: if a router has none, or there is no router.
    """
    found = {name: _bias(lm, name) for name in routers_of(lm)}
    if not found or None in found.values():
        lacks = "whose router has no" if found else "without a router that has a"
        raise ConfigError(
            f"objective.bias_rate: {type(lm).__name__} is a model {lacks} bias for the choice of "
            "experts alone, which could be moved; set objective.bias_rate: 0 and, to balance a "
            "router, objective.balance, or take a model that has one, such as deepseek_v3"
        )
    return {name: bias for name, bias in found.items() if bias is not None}


def _bias(lm: nn.Module, router: str) -> Bias | None:
    layer = lm.get_submodule(router.rpartition(".")[0])
    places = [*lm.get_submodule(router).modules(), layer]
    named = (Bias(place, name) for place in places for name in BIASES if hasattr(place, name))
    return next((bias for bias in named if isinstance(bias.value, Tensor)), None)

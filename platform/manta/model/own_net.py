"""A model of the user's own: a class of a file, in place of a causal model of Transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from manta.config.errors import ConfigError
from manta.config.own_code import OwnCode
from manta.config.run import RunConfig


@dataclass(frozen=True)
class OwnNet:
    """What a user's model is made of.

    Attributes:
        code: the class.
        sizes: keyword arguments that the class is called with.
    """

    code: OwnCode
    sizes: dict[str, Any]

    def build(self, seed: int) -> nn.Module:
        """The model in fp32 on the CPU; the same for the same seed.

        Raises:
            ConfigError: if it can't be made, or has nothing to train.
        """
        torch.manual_seed(seed)
        net = self.code.made(**self.sizes)
        if not isinstance(net, nn.Module) or not any(p.requires_grad for p in net.parameters()):
            raise ConfigError(
                f"model.type = '{self.code.file}:{self.code.name}': no torch.nn.Module with "
                "parameters to train"
            )
        return net.float().train()


def refuse_what_needs_layers(config: RunConfig) -> None:
    """Refuse what Manta does to the layers of a model that it knows.

    Raises:
        ConfigError: naming the key.
    """
    for key, asked in {
        "parallel.shard": config.parallel.shard,
        "train.activation_checkpointing": config.train.activation_checkpointing,
        "train.param_dtype": config.train.param_dtype != "fp32",
    }.items():
        if asked:
            raise ConfigError(f"{key}: not with a model of your own ({config.model.type})")

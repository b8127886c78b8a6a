"""Which weights of a model are trained: all, those that patterns name, or an adapter's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from transformers import PreTrainedModel

from manta.config.errors import ConfigError
from manta.config.model import ModelSection
from manta.model.adapter import add_adapter
from manta.model.model_class import head_of
from manta.model.quantized import quantize

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
NAMES_SHOWN = 6
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_trained(lm: PreTrainedModel, section: ModelSection, seed: int) -> None:
    """Freeze what a run doesn't train, in place, and give the model its adapter if it gets one.

    Args:
        lm: the model, its parameters with or without memory.
        section: the config's section `model`.
        seed: seed of an adapter's first weights.

    Raises:
        ConfigError: if a pattern matches no parameter, nothing is left to train, or the adapter
            does not fit the model.
    """
    if not section.freezes:
        return
    key, patterns = ("freeze", section.freeze) if section.freeze else ("train", section.train)
    named = matching(lm, patterns, f"model.{key}")
    if section.adapter is not None:
        add_adapter(lm, section.adapter, seed)
    else:
        lm.requires_grad_(bool(section.freeze))
    for parameter in named:
        parameter.requires_grad_(not section.freeze)
    head = head_of(lm)
    if head is not None and not section.freeze:
        head.requires_grad_(True)  # it is new: frozen, it would give scores at random
    if not any(parameter.requires_grad for parameter in lm.parameters()):
        raise ConfigError(f"model.freeze = {patterns}: nothing is left to train")


def hold_frozen(lm: PreTrainedModel, section: ModelSection) -> None:
    """Hold the frozen weights of a model as a run asks for, in place; `choose_trained` comes first.

    Args:
        lm: the model, its parameters on the CPU or without memory.
        section: the config's section `model`.

    Raises:
        ConfigError: if they can't be held so.
    """
    if section.quantize is not None:
        quantize(lm, section.quantize)
    if not section.freezes:
        return
    for parameter in base_weights(lm).values():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(DTYPES[section.frozen_dtype])


def base_weights(lm: nn.Module) -> dict[str, nn.Parameter]:
    """The base of a model: its parameters that are not trained, by name."""
    return {name: one for name, one in lm.named_parameters() if not one.requires_grad}


def matching(lm: nn.Module, patterns: Sequence[str], key: str) -> list[nn.Parameter]:
    """The parameters that patterns name; of tied ones any of their names counts.

    Args:
        lm: the model.
        patterns: patterns of parameter names, such as `model.layers.{0..7}.*`.
        key: the config's key that has the patterns, for messages.

    Raises:
        ConfigError: if a pattern is the name of no parameter.
    """
    names = dict(lm.named_parameters(remove_duplicate=False))
    found = []
    for pattern in patterns:
        globs = list(_expanded(pattern))
        hits = [one for name, one in names.items() if any(fnmatchcase(name, g) for g in globs)]
        if not hits:
            shown = ", ".join(list(names)[:NAMES_SHOWN])
            raise ConfigError(
                f"{key}: '{pattern}' is the name of no parameter; there are {shown} and "
                f"{max(0, len(names) - NAMES_SHOWN)} more; * stands for any text, {{0..3}} for "
                "numbers"
            )
        found += hits
    return found


def _expanded(pattern: str) -> Iterator[str]:
    """A pattern with each number of its ranges, such as {0..3}, written out."""
    span = RANGE.search(pattern)
    if span is None:
        yield pattern
        return
    for number in range(int(span[1]), int(span[2]) + 1):
        yield from _expanded(pattern[: span.start()] + str(number) + pattern[span.end() :])

"""Adapters: low-rank matrices of PEFT's in the layers of a model whose own weights are frozen.

PEFT is imported here alone, and only for a run that has an adapter: it is the extra `adapt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from manta.config.errors import ConfigError
from manta.config.extras import import_extra
from manta.config.model import AdapterSection
from manta.model.model_class import head_of

if TYPE_CHECKING:
    from peft import LoraConfig

# What PEFT calls an adapter by default: a part of the names of its parameters.
NAME = "default"
# As PEFT calls the file, and what it puts before the names of parameters in it.
WEIGHTS, PREFIX = "adapter_model.safetensors", "base_model.model."


def add_adapter(lm: PreTrainedModel, section: AdapterSection, seed: int) -> None:
    """Put an adapter into the layers of a model, in place, and freeze all other weights.

    The model computes what it did before, as one of the two matrices of each layer is nought.

    Args:
        lm: the model; where its parameters are on `meta`, those of the adapter are, too.
        section: the config of the adapter.
        seed: seed of the other matrix.

    Raises:
        ConfigError: if PEFT is not installed, or has no adapter for the layers that are named.
    """
    import_peft()
    from peft import inject_adapter_in_model

    _refuse_output_layer(lm, section)
    meta = next(lm.parameters()).is_meta
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(peft_config(lm, section), lm, NAME, low_cpu_mem_usage=meta)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ConfigError(
                f"model.adapter.targets = {section.targets!r}: {' '.join(str(error).split())}"
            ) from None


def import_peft() -> None:
    """Import PEFT; ConfigError if it is not installed."""
    import_extra("peft", "model.adapter", "adapt")


def peft_config(
    lm: PreTrainedModel, section: AdapterSection, base: str | None = None
) -> LoraConfig:
    """The adapter as PEFT describes it.

    Args:
        lm: the model.
        section: the config of the adapter.
        base: path or name of the model without the adapter, for PEFT to load it.
    """
    from peft import LoraConfig

    return LoraConfig(
        # Of a model with a head, PEFT leaves that layer out of all linear ones.
        task_type="CAUSAL_LM" if head_of(lm) is None else "SEQ_CLS",
        base_model_name_or_path=base,
        r=section.rank,
        lora_alpha=2 * section.rank if section.alpha is None else section.alpha,
        lora_dropout=section.dropout,
        target_modules=section.targets,
        use_rslora=section.rslora,
        use_dora=section.dora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in lm.modules()),
    )


def _refuse_output_layer(lm: PreTrainedModel, section: AdapterSection) -> None:
    """Refuse one for the output layer, whose weight alone the chunked loss is computed from."""
    head = lm.get_output_embeddings()
    name = next((name for name, module in lm.named_modules() if module is head), None)
    if head is None or name is None or isinstance(section.targets, str):
        return
    for target in section.targets:
        if name == target or name.endswith(f".{target}"):
            raise ConfigError(
                f"model.adapter.targets: '{target}' is the output layer, which takes no adapter; "
                f"leave it out, or train it whole with model.train: ['*{target}*']"
            )


@contextmanager
def without_adapter(lm: nn.Module) -> Iterator[None]:
    """In it, a model computes as it did before it got its adapter.

    `_disable_adapters` is internal to PEFT 0.21; PEFT's own switch would also change which weights
    have gradients, which FSDP has taken note of. tests/train/test_adapter.py guards it.
    """
    layers = list(adapted_layers(lm))
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def adapted_layers(lm: nn.Module) -> Iterator[Any]:
    """The layers of a model that have an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return (module for module in lm.modules() if isinstance(module, BaseTunerLayer))


def merged(lm: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapter added to the weights, in place and in their number format."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(lm.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            lm.set_submodule(name, module.get_base_layer())
    return lm


def save_adapter(
    lm: PreTrainedModel, section: AdapterSection, base: str | None, folder: Path
) -> None:
    """Write a model's adapter as PEFT and Transformers load it.

    Args:
        lm: the model with its adapter.
        section: the config of the adapter.
        base: path or name of the model without the adapter.
        folder: where two files are written.
    """
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(lm, adapter_name=NAME)
    weights = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    peft_config(lm, section, base).save_pretrained(str(folder))


def adapter_weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder of PEFT, by the names that they have in the model."""
    from peft import load_peft_weights

    found = load_peft_weights(str(folder), device="cpu")
    return {name.removeprefix(PREFIX): weight for name, weight in found.items()}


def load_adapter(lm: PreTrainedModel, folder: Path, weights: dict[str, Tensor]) -> None:
    """Give a model the adapter of a folder of PEFT, and the weights that it has whole, in place.

    Args:
        lm: the model that the adapter is for.
        folder: folder of PEFT.
        weights: weights in the folder, from `adapter_weights`.

    Raises:
        RuntimeError: if some of them do not fit the model.
    """
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(folder))
    config.modules_to_save = None  # they are loaded here
    own = {name for name, _ in lm.named_parameters(remove_duplicate=False)}
    lm.load_state_dict({name: weights[name] for name in own & set(weights)}, strict=False)
    inject_adapter_in_model(config, lm, NAME)
    others = {name: weight for name, weight in weights.items() if name not in own}
    result = set_peft_model_state_dict(lm, others, NAME)
    if result.unexpected_keys:
        raise RuntimeError(f"it has no place for {', '.join(sorted(result.unexpected_keys)[:4])}")

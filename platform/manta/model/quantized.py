"""Frozen linear layers in 4 or 8 bits, as QLoRA holds an adapter's base (Dettmers et al., 2023).

What is stored is that of bitsandbytes: NF4 with a float32 scale for each 64 weights, or int8 with
one for each row (LLM.int8(), Dettmers et al., 2022). In each pass a layer's weights are computed
from it in the number format of the pass, multiplied, and forgotten. Inputs are never rounded:
LLM.int8() rounds them too, by all rows of a batch together, and then a sample's loss would depend
on which others are computed beside it.

Codes and scales are parameters of integer types, the scales as their bytes, so that whatever casts,
splits or sends the other weights does the same to these and changes no bit of them. Weights are
rounded on the host alone, which gives the same codes whatever the devices are.

bitsandbytes is imported here alone, and only for a run with `model.quantize`: the extra `quantize`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from manta.config.errors import ConfigError
from manta.config.extras import import_extra
from manta.config.model import Quantize
from manta.model.model_class import head_of

KEY = "model.quantize"
# Weights that share a scale in NF4.
BLOCK = 64
# Weights that are rounded at a time: what is computed of them takes some sixteen times as many
# bytes. Rows are taken in multiples of BLOCK, so that a scale never belongs to two pieces.
PIECE = 1 << 22
# Weights that are tried on a device.
TRIED = (4, 128)


class QuantizedLinear(nn.Module):
    """A frozen linear layer whose weights are held in 4 or 8 bits.

    Attributes:
        codes: NF4: uint8 (outputs, inputs / 2), two weights in each; int8: int8 (outputs, inputs).
        scales: bytes of the float32 scales, uint8 (4 · scales,).
        bias: bias of the layer, or None.
        in_features: number of inputs.
        out_features: number of outputs.

    Args:
        layer: the layer; its weights are on the CPU, or on `meta`, and then so are the codes.
        form: name of the format of its codes.
    """

    def __init__(self, layer: nn.Linear | Conv1D, form: Quantize):
        super().__init__()
        self.form, self._turned = form, isinstance(layer, Conv1D)
        if not layer.weight.is_meta:
            import_bitsandbytes()
        weight = layer.weight.detach()
        weight = weight.T if self._turned else weight
        self.out_features, self.in_features = (int(size) for size in weight.shape)
        codes, scales = _empty(weight, form) if weight.is_meta else _rounded(weight, form)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:
        """The weights in float32, shaped as in the layer that this one replaced."""
        whole = self._weights(torch.float32)
        return whole.T if self._turned else whole

    @property
    def numel(self) -> int:
        """Number of weights, without the bias."""
        return self.in_features * self.out_features

    def _weights(self, dtype: torch.dtype) -> Tensor:
        shape = (self.out_features, self.in_features)
        return _restored(self.codes, self.scales, shape, self.form, dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (…, outputs) of inputs (…, inputs), in the number format of the pass."""
        kind = inputs.device.type
        if torch.is_autocast_enabled(kind):
            inputs = inputs.to(torch.get_autocast_dtype(kind))
        outputs: Tensor = _Product.apply(inputs, self.codes, self.scales, self)  # type: ignore[no-untyped-call]
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)

    def extra_repr(self) -> str:
        """Sizes and format, for a model that is printed."""
        return f"{self.in_features}, {self.out_features}, {self.form}"


class _Product(torch.autograd.Function):
    """Inputs times weights, which are computed anew for the backward pass and not kept for it."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, codes: Tensor, scales: Tensor, layer: QuantizedLinear
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.shape, ctx.form = (layer.out_features, layer.in_features), layer.form
        return F.linear(inputs, _restored(codes, scales, ctx.shape, ctx.form, inputs.dtype))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scales = ctx.saved_tensors
        return slope @ _restored(codes, scales, ctx.shape, ctx.form, slope.dtype), None, None, None


def _rounded(weight: Tensor, form: Quantize) -> tuple[Tensor, Tensor]:
    """Codes and bytes of the scales of a matrix, computed some rows at a time."""
    from bitsandbytes import functional

    rows = max(BLOCK, PIECE // weight.shape[1] // BLOCK * BLOCK)
    codes, scales = [], []
    for piece in torch.split(weight.float(), rows):
        if form == "nf4":
            found, state = functional.quantize_4bit(
                piece.contiguous(), blocksize=BLOCK, quant_type="nf4"
            )
            codes.append(found.view(len(piece), -1))
            scales.append(state.absmax)
        else:
            found, scale, _ = functional.int8_vectorwise_quant(piece.contiguous())
            found[scale == 0] = 0  # divided by 0: what a row of zeros became is not defined
            codes.append(found)
            scales.append(scale)
    return torch.cat(codes), torch.cat(scales).float().view(torch.uint8)


def _empty(weight: Tensor, form: Quantize) -> tuple[Tensor, Tensor]:
    """Codes and bytes of the scales without memory, shaped as of a matrix."""
    outputs, inputs = weight.shape
    if form == "nf4":
        scales, codes = -(-outputs * inputs // BLOCK), (outputs, inputs // 2)
    else:
        scales, codes = outputs, (outputs, inputs)
    dtype = torch.uint8 if form == "nf4" else torch.int8
    return (
        torch.empty(codes, dtype=dtype, device="meta"),
        torch.empty(4 * scales, dtype=torch.uint8, device="meta"),
    )


def _restored(
    codes: Tensor, scales: Tensor, shape: tuple[int, int], form: Quantize, dtype: torch.dtype
) -> Tensor:
    """The weights (outputs, inputs) in `dtype`."""
    from bitsandbytes import functional

    absmax = scales.view(torch.float32)
    if form == "int8":
        whole: Tensor = functional.int8_vectorwise_dequant(codes, absmax)
        return whole.to(dtype)
    state = functional.QuantState(
        absmax, shape=shape, dtype=dtype, blocksize=BLOCK, quant_type="nf4"
    )
    restored: Tensor = functional.dequantize_4bit(codes.reshape(-1, 1), state)
    return restored.view(shape)


def quantize(lm: PreTrainedModel, form: Quantize) -> None:
    """Hold the frozen linear layers of a model in 4 or 8 bits, in place.

    Left as they are: the output layer and a head for scores, as everywhere in the field; weights
    that other modules use too; whatever is no linear layer, such as embeddings and fused experts.

    Args:
        lm: the model with what is trained chosen; its weights are on the CPU or on `meta`.
        form: name of the format that they are to be held in.

    Raises:
        ConfigError: if there is no such layer, or bitsandbytes is not installed where it is used.
    """
    replaced: dict[int, QuantizedLinear] = {}
    for name, module in list(_layers(lm)):
        if id(module) not in replaced:
            replaced[id(module)] = QuantizedLinear(module, form)
        lm.set_submodule(name, replaced[id(module)])
    if not replaced:
        raise ConfigError(
            f"{KEY} = '{form}': {type(lm).__name__} has no frozen linear layer beside its output "
            "layer, so there is nothing to hold in fewer bits: leave it out"
        )


def frozen_bytes(lm: nn.Module) -> int:
    """Bytes of a model's frozen weights, as they are held."""
    return sum(one.nbytes for one in lm.parameters() if not one.requires_grad)


def quantized_numel(lm: nn.Module) -> int:
    """How many weights of a model are held in 4 or 8 bits."""
    return sum(one.numel for one in lm.modules() if isinstance(one, QuantizedLinear))


def whole_numel(lm: nn.Module) -> int:
    """How many weights a model has, each counted once in whatever bits it is held."""
    quantized = [one for one in lm.modules() if isinstance(one, QuantizedLinear)]
    codes = {id(part) for one in quantized for part in (one.codes, one.scales)}
    others = (one.numel() for one in lm.parameters() if id(one) not in codes)
    return sum(others) + quantized_numel(lm)


def _layers(lm: PreTrainedModel) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """The layers that can be held in fewer bits, by each of their names."""
    kept = {id(lm.get_output_embeddings()), id(head_of(lm))}
    users: dict[int, set[int]] = {}
    for module in lm.modules():
        for weight in module.parameters(recurse=False):
            users.setdefault(id(weight), set()).add(id(module))
    for name, module in lm.named_modules(remove_duplicate=False):
        if type(module) not in (nn.Linear, Conv1D) or id(module) in kept:
            continue
        weight = module.weight
        inputs = weight.shape[0] if isinstance(module, Conv1D) else weight.shape[1]
        # Of an odd number of inputs two rows would share a byte.
        if not weight.requires_grad and len(users[id(weight)]) == 1 and inputs % 2 == 0:
            yield name, module


def dequantize(lm: PreTrainedModel) -> None:
    """Have ordinary layers in float32 in place of quantized ones, with the same weights."""
    for name, module in list(lm.named_modules(remove_duplicate=False)):
        if isinstance(module, QuantizedLinear):
            weight = module._weights(torch.float32)
            biased = module.bias is not None
            layer = nn.Linear(module.in_features, module.out_features, biased, device="meta")
            layer.weight, layer.bias = nn.Parameter(weight, requires_grad=False), module.bias
            lm.set_submodule(name, layer)


def import_bitsandbytes() -> None:
    """Import bitsandbytes; ConfigError if it is not installed."""
    import_extra("bitsandbytes", KEY, "quantize")


def check_driver(form: Quantize, *, on_gpus: bool) -> None:
    """Check on the driver what workers need, as far as it can be told without their devices.

    Args:
        form: name of the format of weights.
        on_gpus: whether workers have GPUs; else they have a CPU like this one.

    Raises:
        ConfigError: if bitsandbytes is not installed, or does not support the device.
    """
    import_bitsandbytes()
    if not on_gpus:
        check_device(form, torch.device("cpu"))
    elif cuda := torch.version.cuda:
        _check_library(form, cuda)


def _check_library(form: Quantize, cuda: str) -> None:
    """Refuse a CUDA that bitsandbytes has no library for, which it has for each major version.

    Their names are internal to bitsandbytes 0.50.
    """
    folder = Path(import_module("bitsandbytes").__file__ or "").parent
    major = cuda.partition(".")[0]
    names = sorted(path.stem for path in folder.glob("libbitsandbytes_cuda*"))
    if not any(re.fullmatch(rf"libbitsandbytes_cuda{major}\d", name) for name in names):
        raise ConfigError(
            f"{KEY} = '{form}': the bitsandbytes that is installed has no library for CUDA {cuda} "
            f"(it has {', '.join(names) or 'none'}): install another one, or leave the key out"
        )


@torch.no_grad()
def check_device(form: Quantize, device: torch.device) -> None:
    """Try the format on a device: what is computed there must be what the host computes.

    Raises:
        ConfigError: if bitsandbytes is not installed, or does not support the device.
    """
    import_bitsandbytes()
    weight = torch.linspace(-1, 1, TRIED[0] * TRIED[1]).view(TRIED)
    try:
        codes, scales = _rounded(weight, form)
        expected = _restored(codes, scales, TRIED, form, torch.float32)
        found = _restored(codes.to(device), scales.to(device), TRIED, form, torch.float32).cpu()
        if not torch.allclose(found, expected, rtol=1e-6, atol=0):
            raise RuntimeError("it computes other weights there than on the host")
    except Exception as error:  # a native library that is missing raises what it likes
        raise ConfigError(
            f"{KEY} = '{form}': bitsandbytes can't hold weights so on this device ({device}): "
            f"{' '.join(str(error).split())}; leave it out, or set model.frozen_dtype: bf16"
        ) from None

"""How fast the run is: tokens a second, and the share of the device's peak."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PretrainedConfig

from manta.model.quantized import QuantizedLinear
from manta.parallel.sharding import layers_of

# Dense bf16 peak with fp32 accumulation in FLOP/s, without sparsity, from the makers' data sheets,
# by words in the device's name. V100, T4: fp16.
PEAK_FLOPS = {
    "GB300": 2500e12,
    "GB200": 2500e12,
    "B300": 2250e12,
    "B200": 2250e12,
    "GH200": 989.4e12,
    "H200 NVL": 835e12,
    "H200": 989.4e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "H800 PCIe": 756e12,
    "H800": 989.4e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "RTX A6000": 154.8e12,
    "RTX 6000 Ada": 364.2e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 5090": 209.5e12,
    "RTX 4090": 165.2e12,
    "V100": 125e12,
    "T4": 65e12,
}
# The same of fp32, which Torch computes without tensor cores unless TF32 was turned on.
PEAK_FLOPS_FP32 = {
    "GH200": 66.9e12,
    "H200 NVL": 60e12,
    "H200": 66.9e12,
    "H100 NVL": 60e12,
    "H100 PCIe": 51.2e12,
    "H100": 66.9e12,
    "A100": 19.5e12,
    "A800": 19.5e12,
    "A40": 37.4e12,
    "RTX A6000": 38.7e12,
    "RTX 6000 Ada": 91.1e12,
    "L40S": 91.6e12,
    "L40": 90.5e12,
    "L4": 30.3e12,
    "RTX 5090": 104.8e12,
    "RTX 4090": 82.6e12,
    "V100": 15.7e12,
    "T4": 8.1e12,
}


def flops_per_token(lm: nn.Module, config: PretrainedConfig, seq_len: int) -> float:
    """Floating-point operations that forward and backward of one token need.

    Each weight of a matrix that multiplies the token takes 2 in the forward pass, 2 for the
    gradient of its inputs and 2 for its own (Kaplan et al., 2020, appendix B; an embedding looks up
    and does not count, a tied one counts as the output layer). Attention takes 12 · layers ·
    heads · head width · seq_len for the full square (Chowdhery et al., 2022, appendix B), of which
    the causal half is needed, a third of it in the forward pass. A frozen weight takes no gradient
    of its own, and where nothing before it is trained, its inputs take none either. What is
    computed a second time, as by activation checkpointing, does not count, and neither do norms and
    other elementwise work. For dense models: of a mixture of experts all would count.
    """
    heads = getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
    layers = getattr(config, "num_hidden_layers", 0)
    attention = 12 * layers * heads * width * seq_len / 2
    share = _share_with_gradients(lm)
    return float(_products(lm) + attention * (1 + 2 * share) / 3)


def _products(lm: nn.Module) -> int:
    """Operations of one token with the weights of matrices, in the order of the model's modules."""
    embeddings = {id(m.weight) for m in lm.modules() if isinstance(m, nn.Embedding)}
    head = getattr(lm, "get_output_embeddings", lambda: None)()
    if head is not None:
        embeddings.discard(id(head.weight))
    # Of two weights that share a byte each one multiplies.
    quantized = {id(m.codes): m.numel for m in lm.modules() if isinstance(m, QuantizedLinear)}
    operations, trained_before = 0, any(p.requires_grad for p in _embedded(lm))
    for parameter in lm.parameters():
        if parameter.ndim >= 2 and id(parameter) not in embeddings:
            passes = 1 + int(trained_before) + int(parameter.requires_grad)
            operations += 2 * passes * quantized.get(id(parameter), parameter.numel())
        trained_before = trained_before or parameter.requires_grad
    return operations


def _embedded(lm: nn.Module) -> Iterator[torch.Tensor]:
    return (module.weight for module in lm.modules() if isinstance(module, nn.Embedding))


def _share_with_gradients(lm: nn.Module) -> float:
    """Share of the layers that take gradients: those from the first on that is trained."""
    layers = layers_of(lm)
    if not layers or any(p.requires_grad for p in _embedded(lm)):
        return 1.0
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    first = trained.index(True) if True in trained else len(layers)
    return 1 - first / len(layers)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak of an accelerator in FLOP/s, or None where it isn't known.

    Args:
        device: a rank's device.
        precision: `train.precision`; with `no` products are fp32's.
    """
    if device.type != "cuda":
        return None
    if precision == "no" and torch.get_float32_matmul_precision() != "highest":
        return None
    return peak_flops_of(torch.cuda.get_device_name(device), fp32=precision == "no")


def peak_flops_of(name: str, *, fp32: bool = False) -> float | None:
    """Peak in FLOP/s of an accelerator by its name, or None: of a slice (MIG) it isn't known."""
    if "MIG" in name.split():
        return None
    peaks = PEAK_FLOPS_FP32 if fp32 else PEAK_FLOPS
    return next((peak for key, peak in peaks.items() if re.search(rf"\b{key}\b", name)), None)


class Meter:
    """Tokens a second of training alone, between one reading and the next."""

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0
        self._since = time.perf_counter()

    def add(self, tokens: int) -> None:
        """Count tokens consumed by a step."""
        self._tokens += tokens

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in it is not training."""
        self._seconds += time.perf_counter() - self._since
        try:
            yield
        finally:
            self._since = time.perf_counter()

    def read(self) -> float:
        """Tokens a second since the last reading, over elapsed training time."""
        with self.paused():
            rate = self._tokens / self._seconds if self._seconds > 0 else 0.0
            self._tokens, self._seconds = 0, 0.0
        return rate

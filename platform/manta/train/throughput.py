"""How fast the run is: tokens a second, and the share of the device's peak."""

from __future__ import annotations

import re
import time

import torch
from torch import nn
from transformers import PretrainedConfig

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

    6 for each weight of a matrix that multiplies the token (Kaplan et al., 2020, appendix B;
    an embedding looks up and does not count, a tied one counts as the output layer), plus
    attention, 12 · layers · heads · head width · seq_len for the full square (Chowdhery et al.,
    2022, appendix B), of which the causal half is needed. What is computed a second time, as by
    activation checkpointing, does not count, and neither do norms and other elementwise work.
    For dense models: of a mixture of experts all would count.
    """
    embeddings = {id(m.weight) for m in lm.modules() if isinstance(m, nn.Embedding)}
    head = getattr(lm, "get_output_embeddings", lambda: None)()
    if head is not None:
        embeddings.discard(id(head.weight))
    weights = sum(p.numel() for p in lm.parameters() if p.ndim >= 2 and id(p) not in embeddings)
    layers = getattr(config, "num_hidden_layers", 0)
    heads = getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
    return float(6 * weights + 12 * layers * heads * width * seq_len / 2)


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

    def pause(self) -> None:
        """Stop the clock: what follows is not training."""
        self._seconds += time.perf_counter() - self._since

    def resume(self) -> None:
        """Start the clock again."""
        self._since = time.perf_counter()

    def read(self) -> float:
        """Tokens a second since the last reading, over elapsed training time."""
        self.pause()
        rate = self._tokens / self._seconds if self._seconds > 0 else 0.0
        self._tokens, self._seconds = 0, 0.0
        self.resume()
        return rate

"""The frozen base of an adapter in float32, bf16, 8 and 4 bits: memory, and tokens a second.

    python benchmarks/quantized.py [--turns 6] [--steps 2] [--threads 2] [--rows 4] [--length 256]
        [--width 768] [--layers 12] [--precision bf16]

LoRA of rank 16 on all linear layers of a model like Llama with weights by its seed, without Ray.
Each format has a process of its own, which trains on random tokens: forward and backward pass of
the model and an update by AdamW. They take turns, of some steps each, and wait for theirs
meanwhile. Peak memory is the process's while it trains, without what it had before it loaded the
model.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"frozen_dtype": "bf16"},
    "int8": {"quantize": "int8"},
    "nf4": {"quantize": "nf4"},
}
VOCABULARY, RANK = 8192, 16
MIB = 2**20


def main() -> None:
    """Print a row for each format."""
    asked = _arguments()
    names = [name for name in FORMS if name != "bf16" or asked.precision == "bf16"]
    with tempfile.TemporaryDirectory() as folder:
        _make(Path(folder), asked)
        found = _measured(Path(folder), names, asked)
    table = Table()
    for head in ("base", "frozen MiB", "peak MiB", "tokens/s", "of float32's"):
        table.add_column(head)
    first = statistics.median(found["float32"]["speeds"])
    for name in names:
        facts, speed = found[name], statistics.median(found[name]["speeds"])
        spread = f"({min(facts['speeds']):,.0f} to {max(facts['speeds']):,.0f})"
        table.add_row(
            name,
            f"{facts['frozen'] / MIB:.0f}",
            f"{facts['peak'] / MIB:.0f}",
            f"{speed:,.0f} {spread}",
            f"{speed / first:.2f}",
        )
    Console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("turns", 6), ("steps", 2), ("threads", 2), ("rows", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("length", 256), ("width", 768), ("layers", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    return parser.parse_args()


def _make(folder: Path, asked: argparse.Namespace) -> None:
    """Write the base."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=asked.width,
        intermediate_size=asked.width * 8 // 3 // 64 * 64,
        num_hidden_layers=asked.layers,
        num_attention_heads=asked.width // 64,
        num_key_value_heads=asked.width // 64,
        vocab_size=VOCABULARY,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def _measured(folder: Path, names: list[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Speeds and sizes of each format, from processes that take turns."""
    processes = multiprocessing.get_context("spawn")
    ends: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for name in names:
        ours, theirs = processes.Pipe()
        worker = processes.Process(target=_worker, args=(theirs, folder, FORMS[name], asked))
        worker.start()
        ends[name] = (ours, worker)
        found[name] = {"frozen": ours.recv(), "speeds": []}
    for _ in range(asked.turns):
        for name, (end, _worker_process) in ends.items():
            end.send(True)
            found[name]["speeds"].append(end.recv())
    for name, (end, worker) in ends.items():
        end.send(False)
        found[name]["peak"] = end.recv()
        worker.join()
    return found


def _worker(end: Connection, folder: Path, form: dict[str, Any], asked: argparse.Namespace) -> None:
    """Train by one format, some steps each time that the other end asks for it."""
    import bitsandbytes  # noqa: F401  all processes begin with the same packages
    import peft  # noqa: F401
    import torch

    from manta.config.model import ModelSection
    from manta.model.quantized import frozen_bytes
    from manta.model.trainable import choose_trained, hold_frozen

    torch.set_num_threads(asked.threads)
    from transformers import AutoModelForCausalLM

    before = _resident("VmRSS")
    section = ModelSection(pretrained=str(folder), adapter={"rank": RANK}, **form)
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    choose_trained(lm, section, 0)
    hold_frozen(lm, section)
    lm.train()
    optimizer = torch.optim.AdamW([one for one in lm.parameters() if one.requires_grad], 1e-4)
    tokens = torch.randint(VOCABULARY, (asked.rows, asked.length))
    end.send(frozen_bytes(lm))

    def steps(count: int) -> None:
        for _ in range(count):
            with torch.autocast("cpu", torch.bfloat16, enabled=asked.precision == "bf16"):
                lm(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    ctypes.CDLL(None).malloc_trim(0)  # of what was freed since, as workers do it by settings
    _forget_the_peak()
    while end.recv():
        begun = time.perf_counter()
        steps(asked.steps)
        end.send(tokens.numel() * asked.steps / (time.perf_counter() - begun))
    end.send(_resident("VmHWM") - before)


def _forget_the_peak() -> None:
    """Have Linux count the process's peak from here on (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _resident(name: str) -> int:
    """Bytes of this process in memory: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()

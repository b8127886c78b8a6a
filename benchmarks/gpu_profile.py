"""Where the time of two steps goes, by kernel: part of `gpu_session.sh`.

    python benchmarks/gpu_profile.py --out FOLDER [--quick] [--column compile] [--seq-len 2048]

Prints the kernels that take most, the copies from the device to the host, and how much of the two
steps the device had nothing to do; writes a trace for a browser (chrome://tracing) beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "platform"), str(HERE)]

import gpu_case  # noqa: E402
import gpu_columns  # noqa: E402
import torch  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

WARMUP, STEPS, SHOWN = 5, 2, 20


def profiled(case: gpu_columns.Case, corpus: Path) -> tuple[Any, float, bool]:
    """The profile of two steps, their seconds, and whether there was a device."""
    config = gpu_case.config_of(case, corpus)
    loop = gpu_case.EngineLoop(case, config)
    batches = loop.batches(gpu_case._batches(config, corpus))
    for batch in islice(batches, WARMUP):
        loop.step(batch)
    on_cuda = loop.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    gpu_case._wait(loop.device)
    with profile(activities=activities) as found:
        began = time.perf_counter()
        for batch in islice(batches, STEPS):
            loop.step(batch)
        gpu_case._wait(loop.device)
        seconds = time.perf_counter() - began
    return found, seconds, on_cuda


def table(found: Any, seconds: float, on_cuda: bool) -> list[str]:
    """Kernels, or on a CPU operators, with their time, as Markdown."""
    kind = torch.autograd.DeviceType.CUDA if on_cuda else torch.autograd.DeviceType.CPU
    micros: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in found.events():
        if event.device_type == kind:
            own = event.self_device_time_total if on_cuda else event.self_cpu_time_total
            micros[event.name] += own
            calls[event.name] += 1
    lines = ["| kernel | calls | ms | of the steps |", "| --- | --- | --- | --- |"]
    for name, own in micros.most_common(SHOWN):
        cells = (name[:80].replace("|", "/"), calls[name], f"{own / 1e3:.1f}")
        lines.append("| {} | {} | {} | {:.1%} |".format(*cells, own / 1e6 / seconds))
    copies = {name: count for name, count in calls.items() if "DtoH" in name}
    busy = sum(micros.values()) / 1e6
    idle = f"{max(0.0, 1 - busy / seconds):.1%}" if on_cuda else "not known"
    return [
        *lines,
        "",
        f"{STEPS} steps: {1e3 * seconds:.1f} ms, the device idle for {idle} of them; "
        f"copies to the host: {copies or 'none'}",
    ]


def main() -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a micro model, not compiled")
    parser.add_argument("--column", choices=list(gpu_columns.COLUMNS))
    parser.add_argument("--seq-len", type=int)
    asked = parser.parse_args()
    column = asked.column or ("eager" if asked.quick else "compile")
    seq_len = asked.seq_len or (64 if asked.quick else 2048)
    case = gpu_columns.Case("engine", column, seq_len, asked.quick, STEPS)
    with tempfile.TemporaryDirectory() as folder:
        gpu_columns.write_corpus(Path(folder), asked.quick)
        found, seconds, on_cuda = profiled(case, Path(folder))
    found.export_chrome_trace(str(asked.out / "profile.json"))
    print(f"### Two steps, {column}, {seq_len} tokens\n")
    print("\n".join(table(found, seconds, on_cuda)))


if __name__ == "__main__":
    main()

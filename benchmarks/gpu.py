"""The engine on one GPU beside a bare loop: tokens/s, MFU, peak memory, where a step's time goes.

    python benchmarks/gpu.py [--out FILE.json]          on a CUDA machine, about two hours
    python benchmarks/gpu.py --columns compile --seq-lens 2048 --repeats 1       about 4 minutes
    python benchmarks/gpu.py --device cpu --quick       a micro model: does this script work?

No Ray and no W&B: `manta.train` under plain python; a process that has loaded either fails. The
bare loop is what a person would write for the same model and the same batches: bf16 autocast over
fp32 weights, accumulation, clipping, AdamW. Every column is given to both, each case is a process
of its own, and the two loops take turns. The first losses of both must agree.

The model has the shape of Llama 3.2 1B: 16 layers, width 2048, 32 heads of 64, 8 of keys and
values, 8192 in the MLP, a vocabulary of 128,256, embedding and output layer tied. Tokens are
random: a matrix product takes as long as with any others.

Columns
    eager           no compilation; loss and attention as the engine chooses them
    compile         torch.compile
    full logits     compile, and a loss that holds the logits of all tokens at once
    stock model     the same, and attention as Transformers chooses it
    AdamW foreach   compile, and AdamW not as a fused kernel
    checkpointing   compile, and activations computed again in backward
    document mask   compile, and attention within documents of 1,024 tokens
    bf16 weights    compile, and the engine's weights in bf16 with float32 masters
    log each step   compile, and loss and gradient norm read by the host after each step, by the
                    engine after the next one is queued
    snapshots       compile, and the engine's state copied to host memory each 5 steps
    chunk 512 MiB   compile, and less of the logits at a time in the fused loss

MFU (model FLOPs utilisation) = tokens/s · FLOPs of a token / peak
    FLOPs of a token = 6 · N + 12 · layers · heads · head width · seq_len / 2
N are the weights of all matrices that multiply a token: an embedding looks up and does not
count, a tied one counts once, as the output layer. The second part is attention's own products,
forward and backward, of which a causal model needs half. What is computed again with
checkpointing does not count. `manta.train.throughput` has it, and the peaks: dense bf16 by
the makers' data sheets, 989.4e12 for H100 SXM and H200, 312e12 for A100.

A step's time: `forward` and `backward` by CUDA events around them, in steps of their own; `rest`
is what they leave of a step: bringing tokens to the device, counting them, clipping, the guard,
the optimizer. `data` is what the host waits for a batch, which on a GPU costs a step nothing as
long as it is less than the step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "platform"
sys.path[:0] = [str(SOURCE), str(HERE)]

from gpu_columns import COLUMNS, LOOPS, Case, write_corpus  # noqa: E402

ANCHORS = """\
Published on H100s with bf16, several GPUs and FSDP; both count attention in full, not causal:
torchtitan, Llama 3.1 8B at 8192 tokens with torch.compile, 500 W: 39 % (its benchmarks/
llama3_h100_202412_torchtitan.md); llm-foundry at 2048 tokens: 1B 41.8 %, 7B 46.4 % (its
scripts/train/benchmarking/README.md), which would be 39 % and 44.7 % counted as here.
Aim on one H200: at least 50 %, and within 2 % of the best bare loop."""
NO_GPU = """\
No CUDA device here: nothing was measured. `--device cpu --quick` checks the script itself."""
PHASES = ("data", "forward", "backward", "rest")
LOSSES_AGREE = 0.01  # relative; both are in bf16, and sum in different orders
CASE_SECONDS = 900


def run_case(case: Case, device: str, folder: Path) -> dict[str, Any]:
    """What one loop with one column did, in a process of its own; `error` if it failed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(HERE)])}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(HERE / "gpu_case.py"), case.to_json(), str(folder)]
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=CASE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {CASE_SECONDS} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"exit status {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(
    column: str, seq_len: int, arguments: argparse.Namespace, folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Both loops in turn, as often as asked for: the results of each."""
    found: dict[str, list[dict[str, Any]]] = {loop: [] for loop in LOOPS}
    for repeat in range(arguments.repeats):
        for loop in LOOPS if repeat % 2 == 0 else reversed(LOOPS):
            sizes = {"quick": arguments.quick, "steps": arguments.steps}
            case = Case(loop, column, seq_len, **sizes, eager=arguments.eager)
            result = run_case(case, arguments.device, folder)
            found[loop].append(result)
            shown = result.get("error") or f"{statistics.median(result['rates']):,.0f} tokens/s"
            print(f"{seq_len} {column}, {loop}: {shown}", file=sys.stderr, flush=True)
    return found


def merged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The repeats of a case as one: medians, and the rates of all of them."""
    if errors := [result for result in results if "error" in result]:
        return errors[0]
    rates = [statistics.median(result["rates"]) for result in results]
    phases = {
        name: statistics.median(result["phases"][name] for result in results) for name in PHASES
    }
    return {**results[0], "rate": statistics.median(rates), "all": rates, "phases": phases}


def table(seq_len: int, rows: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Markdown of one sequence length: a line for each column and loop."""
    head = ["column", "loop", "tokens/s", "of bare", "MFU", "peak GiB", "step ms", *PHASES]
    lines = [
        f"### {seq_len} tokens",
        "",
        "| " + " | ".join(head) + " |",
        "| " + " | ".join(["---"] * len(head)) + " |",
    ]
    for column, loops in rows.items():
        for loop, result in loops.items():
            cells = [column, loop, *_cells(result, loops["bare"])]
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", best(rows), ""]


def _cells(result: dict[str, Any], bare: dict[str, Any]) -> list[str]:
    if "error" in result:
        return [result["error"]] + [""] * (5 + len(PHASES) - 1)
    ratio = ""
    if result["loop"] != "bare" and "error" not in bare:
        ratios = [a / b for a, b in zip(result["all"], bare["all"], strict=True)]
        ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    mfu, memory = result["mfu_per_rate"], result["peak_memory"]
    return [
        f"{result['rate']:,.0f}",
        ratio,
        "" if mfu is None else f"{mfu * result['rate']:.1%}",
        "" if memory is None else f"{memory / 2**30:.1f}",
        f"{1e3 * result['tokens_per_step'] / result['rate']:.1f}",
        *(f"{1e3 * result['phases'][name]:.1f}" for name in PHASES),
    ]


def best(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The engine's best column beside the bare loop's best."""
    found = {}
    for loop in LOOPS:
        rates = {c: r[loop]["rate"] for c, r in rows.items() if "rate" in r[loop]}
        if not rates:
            return f"No column of the {loop} loop ran."
        column = max(rates, key=lambda name: rates[name])
        found[loop] = (rates[column], column)
    (rate, column), (limit, other) = found["engine"], found["bare"]
    return f"Best engine ({column}) / best bare loop ({other}): {rate / limit:.3f}."


def check_losses(rows: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """What is wrong with the losses of the first step, which all cases share."""
    first = {
        f"{column}, {loop}": result["first_loss"]
        for column, loops in rows.items()
        for loop, result in loops.items()
        if "error" not in result
    }
    if not first:
        return []
    middle = statistics.median(first.values())
    return [
        f"{name}: its first loss is {loss:.4f}, that of the others {middle:.4f}"
        for name, loss in first.items()
        if not abs(loss - middle) <= LOSSES_AGREE * middle
    ]


def check_cases(rows: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """The cases that failed, and with what."""
    return [
        f"{column}, {loop}: {result['error']}"
        for column, loops in rows.items()
        for loop, result in loops.items()
        if "error" in result
    ]


def described(device: str) -> str:
    """The machine and the software, in a line."""
    if device == "cpu":
        return f"CPU, torch {version('torch')}: a check of the script; no MFU, no memory"
    import torch

    return (
        f"{torch.cuda.get_device_name()}, "
        f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB, "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    )


def has_gpu() -> bool:
    """Whether there is a CUDA device."""
    import torch

    return torch.cuda.is_available()


def main() -> None:
    """Measure every column at every sequence length and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a micro model and few steps")
    parser.add_argument("--eager", action="store_true", help="leave out compilation everywhere")
    parser.add_argument("--seq-lens", type=int, nargs="+")
    parser.add_argument("--columns", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="in each stretch that is timed")
    parser.add_argument("--out", type=Path, help="write everything measured there as JSON")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("--device cpu only checks the script: add --quick")
    if arguments.device == "cuda" and not has_gpu():
        print(NO_GPU)
        return
    seq_lens = arguments.seq_lens or ([64] if arguments.quick else [2048, 8192])
    everything: dict[int, Any] = {}
    wrong: list[str] = []
    failed: list[str] = []
    print(f"## GPU: {described(arguments.device)}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), arguments.quick)
        for seq_len in seq_lens:
            raw = {c: compare(c, seq_len, arguments, Path(folder)) for c in arguments.columns}
            rows = {c: {loop: merged(r) for loop, r in loops.items()} for c, loops in raw.items()}
            print("\n".join(table(seq_len, rows)), flush=True)
            everything[seq_len] = raw
            wrong += check_losses(rows)
            failed += check_cases(rows)
    if arguments.device == "cuda":
        print(ANCHORS)
    if arguments.out:
        arguments.out.write_text(json.dumps(everything, indent=2) + "\n")
    if failed and arguments.device == "cpu":  # on a GPU one may be too large for its memory
        sys.exit("this script is broken: " + "; ".join(failed))
    if wrong:
        sys.exit("losses differ, so the speeds mean nothing: " + "; ".join(wrong))


if __name__ == "__main__":
    main()

"""How long one waits: for help, for an error, for the first step of a run.

    python benchmarks/latency.py                               # some 5 minutes on 2 cores
    python benchmarks/latency.py --repeats 5 --rows start running commands errors --out FILE.json
    python benchmarks/latency.py --rows cold                   # as root: the page cache is dropped
    python benchmarks/latency.py --rows compile prepare

Rows:

- *start*: from the command to the first step, of the demo's model (one worker, all CPUs, 8 × 128
  tokens, fp32): a plain PyTorch script, a TorchTrainer of Ray Train that does the same, and
  `manta train`. It is over when the first loss can be read from a file, for all alike; that
  the losses agree (they are of the same model, untrained) is checked. Below, Manta's own record of
  where its time went, which begins when the command line is read.
- *running*: the same on a Ray that is there already (`ray start --head`), for Ray Train and Manta.
- *cold*: *start* with the page cache dropped before each. Bytecode is not removed: installing a
  package compiles it.
- *compile*: *start* with torch.compile.
- *commands*: `--help` of the command line and of each command.
- *errors*: what one gets wrong, until the message is there and the command has ended.
- *prepare*: `benchmarks/prepare.py`, which has a description of its own.

Repeats of all rows are interleaved: one of each, then the next. Tables show the median and the
smallest and largest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
CONFIG = ROOT / "jobs/demo/run.yaml"
ROWS = ("start", "running", "cold", "compile", "commands", "errors", "prepare")
BATCH = 8
COMMANDS = ("prepare", "train", "sweep", "compare", "verify", "doctor", "submit", "export")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
LIMIT_SECONDS = 300.0
# Untrained models of the same kind have the same loss but for the luck of their weights.
SAME_LOSS = 0.05

Case = Callable[[], float]


def main() -> None:
    """Measure and print tables."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="ml", dir="/tmp", ignore_cleanup_errors=True) as name:
        bench = Bench(options.corpus.resolve(), Path(name))
        found: dict[str, Any] = {}
        for row in options.rows:
            if row == "prepare":
                subprocess.run([sys.executable, str(HERE / "prepare.py")], check=False)
            else:
                found[row] = TABLES[row](bench, options.repeats)
                found[row]["load"] = os.getloadavg()[0]
    if options.out is not None:
        options.out.write_text(json.dumps({"cpus": os.cpu_count(), **found}, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["start", "commands", "errors"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    options = parser.parse_args()
    if not (options.corpus / "manifest.json").exists():
        sys.exit(f"{options.corpus}: prepare it first: manta prepare jobs/demo/corpus.yaml")
    return options


# ------------------------------------------------------------------------ tables


def start_table(bench: Bench, repeats: int) -> dict[str, Any]:
    """From the command to the first step."""
    cases = {
        "plain PyTorch": bench.plain,
        "Ray Train": bench.ray_train,
        "manta train": bench.manta,
    }
    return _starts("Command to first step", bench, cases, repeats)


def running_table(bench: Bench, repeats: int) -> dict[str, Any]:
    """The same on a Ray that is there already."""
    with running_ray(bench.folder) as address:
        cases = {
            "plain PyTorch": bench.plain,
            "Ray Train": lambda: bench.ray_train(address=address),
            "manta train": lambda: bench.manta(address=address),
        }
        return _starts("Command to first step, on a running Ray", bench, cases, repeats)


def cold_table(bench: Bench, repeats: int) -> dict[str, Any]:
    """The same with nothing in the page cache."""
    if not os.access(DROP_CACHES, os.W_OK):
        print("\ncold: not measured, the page cache can only be dropped as root")
        return {}

    def cold(case: Case) -> Case:
        return lambda: (_drop_page_cache(), case())[1]

    cases = {
        "plain PyTorch": cold(bench.plain),
        "Ray Train": cold(bench.ray_train),
        "manta train": cold(bench.manta),
    }
    return _starts("Command to first step, page cache dropped", bench, cases, repeats)


def compile_table(bench: Bench, repeats: int) -> dict[str, Any]:
    """The same with torch.compile."""
    cases = {
        "plain PyTorch": lambda: bench.plain(compiled=True),
        "manta train": lambda: bench.manta(compiled=True),
    }
    return _starts("Command to first step, with torch.compile", bench, cases, repeats)


def commands_table(bench: Bench, repeats: int) -> dict[str, Any]:
    """Help."""
    python = [sys.executable, "-c", "pass"]
    cases = {"(python alone)": lambda: _timed(python), "manta --help": lambda: bench.ends("--help")}
    for command in COMMANDS:
        cases[f"manta {command} --help"] = lambda command=command: bench.ends(command, "--help")
    seconds = _interleaved(cases, repeats)
    _print("Help", seconds)
    return {"seconds": seconds}


def errors_table(bench: Bench, repeats: int) -> dict[str, Any]:
    """What one gets wrong."""
    typo = bench.folder / "typo.yaml"
    typo.write_text(CONFIG.read_text().replace("horizon:", "horizont:"))
    config = str(CONFIG)
    size = "model.sizes.hiddensize=64"

    def refused(says: str, *arguments: str) -> Case:
        return lambda: bench.ends("train", *arguments, says=says)

    corpus = f"corpus={bench.corpus}"
    cases = {
        "an unknown key in the file": refused("horizont", str(typo)),
        "an unknown key on the command line": refused("train.seqlen", config, "train.seqlen=3"),
        "a value that can't be": refused("train.seq_len", config, "train.seq_len=many"),
        "no such corpus": refused("nowhere", config, "corpus=nowhere"),
        "an unknown size of the model": refused("hiddensize", config, corpus, size),
    }
    seconds = _interleaved(cases, repeats)
    _print("Until `manta train` has refused", seconds)
    return {"seconds": seconds}


TABLES = {
    "start": start_table,
    "running": running_table,
    "cold": cold_table,
    "compile": compile_table,
    "commands": commands_table,
    "errors": errors_table,
}


def _starts(title: str, bench: Bench, cases: dict[str, Case], repeats: int) -> dict[str, Any]:
    bench.parts.clear()
    seconds = _interleaved(cases, repeats)
    _print(title, seconds)
    parts = {name: [start.get(name, 0.0) for start in bench.parts] for name in bench.parts[0]}
    _print("Where Manta's goes, as its record has it", parts)
    return {"seconds": seconds, "parts": parts}


def _interleaved(cases: dict[str, Case], repeats: int) -> dict[str, list[float]]:
    """Seconds of each case; one repeat of all, then the next, so that drift hits them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            seconds[name].append(case())
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def _print(title: str, seconds: dict[str, list[float]]) -> None:
    """A table in Markdown; ratios are those of the repeats of one turn to the first row's."""
    first = next(iter(seconds.values()))
    print(f"\n{title}\n")
    print("| what | median s | from | to | against the first |\n| --- | --- | --- | --- | --- |")
    for name, found in seconds.items():
        ratio = statistics.median(
            a / b if b else math.nan for a, b in zip(found, first, strict=True)
        )
        shown = f"{statistics.median(found):.2f} | {min(found):.2f} | {max(found):.2f}"
        print(f"| {name} | {shown} | {ratio:.2f} |", flush=True)


# ------------------------------------------------------------------------- cases


class Bench:
    """The cases, with what they share.

    Attributes:
        corpus: a prepared one.
        folder: for all that is written.
        parts: of each start of Manta, seconds by part, from its record.
    """

    def __init__(self, corpus: Path, folder: Path):
        self.corpus, self.folder = corpus, folder
        self.parts: list[dict[str, float]] = []
        self._count = 0
        self._loss: float | None = None
        section = yaml.safe_load(CONFIG.read_text())
        self._seq_len = int(section["train"]["seq_len"])
        manifest = json.loads((corpus / "manifest.json").read_text())
        self._sizes = {**section["model"]["sizes"], "vocab_size": manifest["vocab_size"]}
        self._tokens = folder / "tokens.npy"
        _write_tokens(corpus, self._tokens, BATCH * self._seq_len)

    def plain(self, compiled: bool = False) -> float:
        """A script of PyTorch and Transformers."""
        return self._case("plain", compile=compiled)

    def ray_train(self, address: str | None = None) -> float:
        """A TorchTrainer."""
        return self._case("ray", address=address)

    def _case(self, kind: str, **more: Any) -> float:
        folder = self._new_folder()
        task = {
            "sizes": self._sizes,
            "tokens": str(self._tokens),
            "batch": BATCH,
            "seq_len": self._seq_len,
            "threads": os.cpu_count(),
            "compile": False,
            "address": None,
            "out": str(folder / "loss.jsonl"),
            **more,
        }
        file = folder / "task.json"
        file.write_text(json.dumps(task))
        command = [sys.executable, str(HERE / "latency_case.py"), kind, str(file)]
        return self._until_loss(command, folder / "loss.jsonl")

    def manta(self, address: str | None = None, compiled: bool = False) -> float:
        """`manta train`; keeps the parts of its start."""
        folder = self._new_folder()
        command = [
            *(sys.executable, "-m", "manta.cli", "train", str(CONFIG)),
            *(f"corpus={self.corpus}", f"run.storage={folder}", "run.name=run"),
            *(f"schedule.horizon={8 * BATCH * self._seq_len}", f"schedule.batch={BATCH}"),
            *("log.every=0", "eval.every=null", "checkpoint.every=null", "wandb.mode=disabled"),
            *("scaling.min=1", f"scaling.resources_per_worker.CPU={os.cpu_count()}"),
            f"train.compile={str(compiled).lower()}",
            *(("--address", address) if address else ()),
        ]
        seconds = self._until_loss(command, folder / "run/metrics.jsonl")
        record = json.loads((folder / "run/run.json").read_text())
        self.parts.append(record["groups"][0]["start"])
        return seconds

    def ends(self, *arguments: str, says: str = "") -> float:
        """A command of Manta's that ends at once, and what it must say."""
        return _timed([sys.executable, "-m", "manta.cli", *arguments], says)

    def _new_folder(self) -> Path:
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir()
        return folder

    def _until_loss(self, command: list[str], file: Path) -> float:
        """Seconds until a loss is in a file; then the command is left to end."""
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        while (loss := _first_loss(file)) is None and process.poll() is None:
            if time.perf_counter() - began > LIMIT_SECONDS:
                process.kill()
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        output, _ = process.communicate()
        if loss is None and (loss := _first_loss(file)) is None:
            sys.exit(f"{command} came to no step:\n{output.decode()[-2000:]}")
        self._loss = loss if self._loss is None else self._loss
        if abs(loss / self._loss - 1) > SAME_LOSS:
            sys.exit(f"{command}: its first loss is {loss}, that of the first case {self._loss}")
        return seconds


def _first_loss(file: Path) -> float | None:
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return next((row["loss"] for row in rows if "loss" in row), None)


def _write_tokens(corpus: Path, file: Path, count: int) -> None:
    """The first tokens of a corpus as an array, which is what a script by hand would read."""
    import numpy as np

    from manta.corpus.manifest import Manifest
    from manta.sample import shard_file
    from manta.sample.tokens import document_tokens

    first = Manifest.read(str(corpus)).shards_of("train")[0]
    np.save(file, document_tokens(shard_file.read(corpus / first.file))[0][:count])


def _environment() -> dict[str, str]:
    """Of the cases: the package and these scripts, and nothing of a Ray of somebody else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    paths = [str(ROOT / "platform"), str(HERE), kept.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "RAY_AUTH_MODE": "disabled"}


def _timed(command: Sequence[str], says: str = "") -> float:
    """Seconds until a command has ended."""
    began = time.perf_counter()
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if says and (done.returncode != 1 or says not in done.stderr):
        sys.exit(f"{command} was to refuse {says!r}:\n{done.stderr[-2000:]}")
    if not says and done.returncode:
        sys.exit(f"{command}:\n{done.stderr[-2000:]}")
    return seconds


def _drop_page_cache() -> None:
    os.sync()
    DROP_CACHES.write_text("3\n")


@contextmanager
def running_ray(folder: Path) -> Iterator[str]:
    """A Ray of our own, as `ray start` makes it; its address."""
    port = _free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--port", str(port), "--include-dashboard", "false", "--disable-usage-stats"),
            *("--ray-client-server-port", str(_free_port()), "--temp-dir", str(folder / "r")),
        ],
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for_nodes(f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked to end, it waits half a minute for its own
        process.wait()


def _wait_for_nodes(address: str) -> None:
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); ray.shutdown()"
    deadline = time.monotonic() + LIMIT_SECONDS
    while subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True
    ).returncode:
        if time.monotonic() > deadline:
            sys.exit("`ray start --head` did not come up")
        time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "platform"))
    main()

"""Does this working tree train what another commit trains, to the bit?

    make same-run COMMIT=main        against that commit; else against HEAD
    make same-run ARGS="train.precision=bf16 train.param_dtype=bf16"        with other settings

For changes that must change nothing: files that move, names, seams. Both versions make the same
shards, and train the same run on those of the other commit, as the version that made a corpus is
part of what orders its samples. They do so by the public command line: 200 steps on two workers, in
fp32 unless settings say otherwise, with evaluations and checkpoints, a worker that is killed, and a
Ctrl-C after which the same command goes on. Compared are loss, gradient norm and validation loss of
each step as they were written, and the ledger's digests. Floating point differs between machines,
so both run here, one after the other, and no value is kept in the repository.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tiny_config import (
    SEQ_LEN,
    STEP,
    corpus_config,
    make_documents,
    run_config,
    write_yaml,
)

ROOT = Path(__file__).resolve().parents[2]
STEPS = 200
INTERRUPTED_AT = 120
COMPARED = ("step", "tokens", "lr", "batch_size", "loss", "grad_norm", "val_loss")


def golden_run(folder: Path, corpus: Path) -> dict[str, Any]:
    """The config of the run, which lies in `folder`."""
    config = run_config(
        folder,
        corpus,
        schedule={
            "horizon": STEPS * STEP,
            "lr": {"name": "wsd", "peak": 1e-3, "warmup": "5%", "decay": "20%"},
        },
        eval={"every": 50 * STEP, "tokens": 20 * SEQ_LEN},
        checkpoint={"every": 40 * STEP},
        wandb={"mode": "disabled"},
        faults=[
            {"kind": "kill", "rank": 1, "step": 70},
            {"kind": "slow", "attempt": None, "seconds": 0.02},
        ],
    )
    config["run"]["name"] = "golden"
    return config


def results(
    tree: Path, folder: Path, settings: list[str], corpus: Path | None = None
) -> dict[str, Any]:
    """Make the corpus and train the run with the package of `tree`; returns what is compared.

    Args:
        tree: files of a commit.
        folder: to work in.
        settings: overrides of the run's config.
        corpus: what to train on, in place of the one made here.
    """
    train = ("train", "run.yaml", *settings)
    folder.mkdir()
    documents = make_documents(folder / "documents")
    write_yaml(folder / "corpus.yaml", corpus_config(folder / "corpus", documents))
    write_yaml(folder / "run.yaml", golden_run(folder, corpus or folder / "corpus"))
    _manta(tree, folder, "prepare", "corpus.yaml").wait()
    _interrupt_at(_manta(tree, folder, *train), folder / "golden/metrics.jsonl")
    assert _manta(tree, folder, *train).wait() == 0, (folder / "log").read_text()
    ledger = pq.read_table(folder / "golden" / "ledger.parquet").to_pylist()
    rows = [json.loads(line) for line in (folder / "golden/metrics.jsonl").open()]
    assert max(row["step"] for row in rows) == STEPS
    shards = sorted((folder / "corpus").glob("*.arrow"))
    return {
        "shards": [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in shards],
        "rows": [[row.get(key) for key in COMPARED] for row in rows],
        "ledger": [[row["step"], row["digest"]] for row in ledger],
        "attempts": len({row["attempt"] for row in ledger}),
    }


def _manta(tree: Path, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(tree / "platform"), "RAY_AUTH_MODE": "disabled"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "manta.cli", *arguments],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _interrupt_at(process: subprocess.Popen[bytes], metrics: Path) -> None:
    """Ctrl-C once the history is so long; it must be saved, and not be at its end."""
    log = metrics.parents[1] / "log"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < INTERRUPTED_AT:
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, log.read_text()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def digest(found: dict[str, Any]) -> str:
    """Of all that is compared."""
    return hashlib.sha256(json.dumps([found["rows"], found["ledger"]]).encode()).hexdigest()[:16]


def main(commit: str, settings: list[str]) -> int:
    """Compare runs with these settings, `KEY=VALUE` each; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder, checked_out(commit) as tree:
        before = results(tree, Path(folder) / "before", settings)
        corpus = Path(folder) / "before" / "corpus"
        now = results(ROOT, Path(folder) / "now", settings, corpus)
    print(f"{commit}: {digest(before)}, {before['attempts']} worker groups")
    print(f"working tree: {digest(now)}, {now['attempts']} worker groups")
    for name in ("shards", "rows", "ledger"):
        for old, new in zip(before[name], now[name], strict=False):
            if old != new:
                print(f"{name} differ first here:\n  {old}\n  {new}")
                return 1
        if len(before[name]) != len(now[name]):
            print(f"{name}: {len(before[name])} before, {len(now[name])} now")
            return 1
    print("the same to the bit")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

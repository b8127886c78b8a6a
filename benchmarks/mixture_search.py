"""What `manta mixture` proposes, against the corpus as it is and equal shares, on real sources.

    python benchmarks/mixture_search.py [--trials 16] [--tokens 300000] [--longer 4] [--seeds 3]
        [--folder FOLDER]

Sources that every installation has: Python of the standard library, C++ headers of Torch, and the
descriptions of installed packages in Markdown. Llamas of two layers (width 64) on samples of 64
tokens; the sweep is tune_spaces/mixture.py. Then runs that are `--longer` times as long, with each
seed: the proposed mixture, the corpus as it is, equal shares, and the mixture of the best trial.

    loss     mean over seeds of the mean validation loss over the three sources, in nats; ± is half
             of its 95 % interval by the pooled spread over seeds
    gain     predicted by the law for runs as long as the trials, and found in the longer runs
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from statistics import mean, variance
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import yaml  # noqa: E402

from manta.record.run_state import read_state  # noqa: E402
from manta.record.sweep_state import read_sweep  # noqa: E402

SOURCES = ("code", "headers", "texts")
LARGEST = 3_000_000  # bytes of a source


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--longer", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="mixtures"))
    prepare(folder)
    write_configs(folder, args.trials, args.tokens)
    manta("sweep", folder / "sweep.yaml")
    equal = [f"--towards={name}=1" for name in SOURCES]
    print(manta("mixture", folder / "runs/mixtures", *equal))
    found = json.loads(manta("mixture", folder / "runs/mixtures", *equal, "--json"))
    mixtures = {
        "proposed": found["shares"],
        "the corpus as it is": found["corpus"],
        "equal shares": [1 / 3] * 3,
        "the best trial's": best_trial(folder),
    }
    horizon = args.tokens * args.longer
    losses = {
        name: [longer(folder, name, shares, horizon, seed) for seed in range(args.seeds)]
        for name, shares in mixtures.items()
    }
    spread = mean(variance(each) for each in losses.values()) ** 0.5
    half = 2.0 * spread / args.seeds**0.5
    print(f"| {horizon:,} tokens | {' | '.join(SOURCES)} | loss | ± |")
    print("| --- |" + " ---: |" * 5)
    for name, each in losses.items():
        shares = " | ".join(f"{share:.1%}" for share in mixtures[name])
        print(f"| {name} | {shares} | {mean(each):.4f} | {half:.4f} |")
    gain = mean(losses["the corpus as it is"]) - mean(losses["proposed"])
    low, high = found["gain"]
    print(f"predicted gain over the corpus {low:+.4f} to {high:+.4f}; found {gain:+.4f}")


def manta(*arguments: object) -> str:
    """Run a command; returns what it printed."""
    command = [sys.executable, "-m", "manta.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def prepare(folder: Path) -> None:
    """A corpus of the three sources, unless it is there."""
    places = {
        "code": (Path(sysconfig.get_path("stdlib")), "*.py"),
        "headers": (Path(torch.__file__).parent / "include", "*.h"),
        "texts": (Path(torch.__file__).parents[1], "METADATA"),
    }
    for name, (root, pattern) in places.items():
        out, size = folder / "texts" / name, 0
        out.mkdir(parents=True, exist_ok=True)
        for index, path in enumerate(sorted(root.rglob(pattern))):
            if size > LARGEST or "site-packages" in str(path.relative_to(root)):
                continue
            shutil.copyfile(path, out / f"{index:05}.txt")
            size += path.stat().st_size
    config: dict[str, Any] = {
        "out": str(folder / "corpus"),
        "sources": [
            {"name": name, "format": "text", "paths": [f"{folder}/texts/{name}/*.txt"]}
            for name in SOURCES
        ],
        "tokenizer": {"vocab_size": 2048},
        "split": {"train": 0.85, "validation": 0.15, "test": 0.0},
        "on_error": "quarantine",
    }
    (folder / "corpus.yaml").write_text(yaml.safe_dump(config))
    manta("prepare", folder / "corpus.yaml")


def write_configs(folder: Path, trials: int, tokens: int) -> None:
    """The config of a run, and that of a sweep over its mixtures."""
    run: dict[str, Any] = {
        "run": {"name": "base", "storage": str(folder / "runs")},
        "corpus": str(folder / "corpus"),
        "model": {
            "type": "llama",
            "sizes": {
                "hidden_size": 64,
                "intermediate_size": 172,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "max_position_embeddings": 64,
                "initializer_range": 0.05,
            },
        },
        "data": {"mixture": {"sources": {name: {} for name in SOURCES}}},
        "train": {"seq_len": 64, "micro_batch": 16},
        "schedule": {
            "horizon": tokens,
            "lr": {"name": "wsd", "peak": 4e-3, "warmup": "5%", "decay": "25%"},
            "batch": 16,
        },
        "eval": {"every": tokens, "tokens": 60_000},
        "checkpoint": {"snapshot_every": 0},
        "scaling": {"min": 1, "max": 1, "resources_per_worker": {"CPU": 1}},
        "wandb": {"mode": "disabled"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    sweep = {
        "sweep": {"name": "mixtures", "storage": str(folder / "runs")},
        "base": "run.yaml",
        "space": "mixture",
        "search": {"type": "random", "trials": trials},
        "concurrent": 2,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))


def best_trial(folder: Path) -> list[float]:
    """The shares of the trial with the least mean loss over sources."""
    sweep = folder / "runs/mixtures"

    def loss(name: str) -> float:
        return mean(read_state(sweep / name).results.val_loss_by_source.values())

    best = min((trial.name for trial in read_sweep(sweep).trials), key=loss)
    config = yaml.safe_load((sweep / best / "config.yaml").read_text())
    weights = [config["data"]["mixture"]["sources"][name]["weight"] for name in SOURCES]
    return [weight / sum(weights) for weight in weights]


def longer(folder: Path, name: str, shares: list[float], horizon: int, seed: int) -> float:
    """The mean validation loss over sources of a longer run."""
    run = f"{name.replace(' ', '-').replace(chr(39), '')}-{seed}"
    named = zip(SOURCES, shares, strict=True)
    sources = {source: {"weight": round(share, 4)} for source, share in named if share > 1e-4}
    manta(
        *("train", folder / "run.yaml", f"run.name={run}", f"run.seed={seed}"),
        *(f"schedule.horizon={horizon}", f"eval.every={horizon}"),
        f"data.mixture.sources={json.dumps(sources)}",
    )
    return mean(read_state(folder / "runs" / run).results.val_loss_by_source.values())


if __name__ == "__main__":
    main()

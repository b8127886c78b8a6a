"""What `manta tune` recommends against the best of a full grid: regret, and share of the tokens.

    python benchmarks/tune.py [--widths 32,64] [--corpora code,made] [--horizon 200000] [--seeds 3]
        [--out FILE.json]

Llamas of two layers on samples of 64 tokens, batches of 4, a cosine with a warmup of 5 %. The
grid is eight rates that differ by 2 around 3e-3, each with all seeds to the horizon. `manta tune`
sees the run with 3e-3 and has the phases `range` (a tenth of the horizon, two seeds) and `critical`
(forks of 5 %, two seeds); it trains with its own commands on Ray. Grid and recommendations are
trained by the run's engine in a bare loop, on the same samples, to the same tokens.

    corpora   code: the standard library's sources in a vocabulary of 1,024 tokens; made: text of a
              chain of 400 words drawn here
    regret    mean loss over the seeds, minus the lowest of the grid, in nats; of the recommended
              rate, of the rate with the batch schedule (`tuned.yaml`), and, between the grid's
              points, of the best rate of the short runs as it was and with the drift measured there
    noise     half of the 95 % interval of a mean of the grid, by the pooled spread over seeds
    share     tokens that the tuning trained, of the grid's
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402

from manta.config import RunConfig, load  # noqa: E402
from manta.elastic.checks.preflight import check  # noqa: E402
from manta.model import hf_config  # noqa: E402
from manta.show.compare.comparison_stats import estimate, pooled_noise  # noqa: E402
from manta.stream.plan import local_stream  # noqa: E402
from manta.train.engine import Engine  # noqa: E402
from manta.train.evaluate import evaluate  # noqa: E402

PEAK, FACTORS, BATCH, LENGTH = 3e-3, range(-3, 5), 4, 64
TUNE = ["phases=[range, critical]", "range.tokens=10%", "critical.tokens=5%", "concurrent=2"]
WORDS, FOLLOWERS, DOCUMENTS, DOCUMENT = 400, 20, 4000, 150


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", default="32,64")
    parser.add_argument("--corpora", default="code,made")
    parser.add_argument("--horizon", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    names = ["best of the grid", "recommended", "regret", "with batches", "as it was"]
    names += ["measured drift", "noise", "batch", "steps", "share"]
    print(f"| corpus, width | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}", flush=True)
    for corpus in given.corpora.split(","):
        for width in map(int, given.widths.split(",")):
            case = measured(prepared(corpus), corpus, width, given.horizon, given.seeds)
            found.append(case)
            print(line(case), flush=True)
            if given.out:
                given.out.write_text(json.dumps(found, indent=1))


def measured(corpus: Path, name: str, width: int, horizon: int, seeds: int) -> dict[str, Any]:
    """One model on one corpus."""
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder), corpus, width, horizon)
        began = time.time()
        tuned, found = tune(run, Path(folder))
        seconds = time.time() - began
        rates = [PEAK * 2.0**power for power in FACTORS]
        grid = [
            [final_loss(run, seed, f"schedule.lr.peak={r}") for seed in range(seeds)] for r in rates
        ]
        rate = found["range"]["recommended"]["value"]
        alone = [final_loss(run, seed, f"schedule.lr.peak={rate}") for seed in range(seeds)]
        whole = [final_loss(tuned, seed) for seed in range(seeds)]
        steps = [schedule_steps(path) for path in (run, tuned)]
    return {
        "corpus": name,
        "width": width,
        "horizon": horizon,
        "rates": rates,
        "grid": grid,
        "found": found,
        "alone": alone,
        "whole": whole,
        "steps": steps,
        "tune_seconds": seconds,
        "share": sum(found["tokens"].values()) / (len(rates) * seeds * horizon),
    }


def line(case: dict[str, Any]) -> str:
    """A row of the table."""
    means = [float(np.mean(losses)) for losses in case["grid"]]
    best = int(np.argmin(means))
    noise = pooled_noise(case["grid"])
    half = estimate(case["grid"][best], noise).half or 0.0
    short = case["found"]["range"]
    longest = max(each["tokens"] for each in short["losses"])
    drifted = short["best"]["value"] * (case["horizon"] / longest) ** short["drift"]

    def between(rate: float) -> float:
        return float(np.interp(np.log(rate), np.log(case["rates"]), means)) - means[best]

    stairs = " → ".join(str(size) for _, size in case["found"]["critical"]["stairs"])
    cells = [
        f"{case['corpus']}, {case['width']}",
        f"{case['rates'][best]:.3g}: {means[best]:.4f}",
        f"{short['recommended']['value']:.3g}",
        f"{np.mean(case['alone']) - means[best]:+.4f}",
        f"{np.mean(case['whole']) - means[best]:+.4f}",
        f"{between(short['best']['value']):+.4f} ({short['best']['value']:.3g})",
        f"{between(drifted):+.4f} ({drifted:.3g})",
        f"± {half:.4f}",
        stairs,
        f"{case['steps'][1]:,} of {case['steps'][0]:,}",
        f"{case['share']:.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def tune(run: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Tune a run; returns the config that it is left with, and what was found."""
    command = [sys.executable, "-m", "manta.cli", "tune", str(run), *TUNE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    place = folder / "runs" / "case-tuned"
    return place / "tuned.yaml", json.loads((place / "tune.json").read_text())


def final_loss(path: Path, seed: int, *overrides: str) -> float:
    """The validation loss after a run without Ray; infinite where it diverged."""
    checked = check(load(path, RunConfig, [f"run.seed={seed}", *overrides]))
    AcceleratorState._reset_state(reset_partial_state=True)
    engine = Engine(checked.config, hf_config.resolve(checked.config, checked.manifest.vocabulary))
    for batch in local_stream(checked.corpus, checked.schedule, cursor=0, rank=0, world_size=1):
        engine.step(batch)
    assert checked.validation is not None
    loss = float(evaluate(engine, checked.validation).loss)
    return loss if loss == loss else float("inf")


def schedule_steps(path: Path) -> int:
    """Optimizer steps of a run."""
    return check(load(path, RunConfig)).schedule.steps


def write_run(folder: Path, corpus: Path, width: int, horizon: int) -> Path:
    """The run's config."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": width // 16, "num_key_value_heads": width // 16}
    sizes |= {"max_position_embeddings": LENGTH, "initializer_range": width**-0.5}
    config = {
        "run": {"name": "case", "storage": str(folder / "runs")},
        "corpus": str(corpus),
        "model": {"type": "llama", "sizes": sizes},
        "train": {"seq_len": LENGTH, "micro_batch": 16},
        "schedule": {
            "horizon": horizon,
            "lr": {"name": "cosine", "peak": PEAK, "warmup": "5%"},
            "batch": BATCH,
        },
        "eval": {"every": horizon, "tokens": 64_000},
        "log": {"every": horizon},
        "wandb": {"mode": "disabled"},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def prepared(name: str) -> Path:
    """A corpus, prepared if it isn't there yet."""
    out = ROOT / "corpora" / f"tune-{name}"
    if (out / "manifest.json").exists():
        return out
    with tempfile.TemporaryDirectory() as folder:
        source: dict[str, Any] = {"name": "stdlib", "format": "python-stdlib"}
        if name == "made":
            texts = [{"text": text} for text in chain()]
            path = Path(folder) / "made.jsonl"
            path.write_text("\n".join(map(json.dumps, texts)))
            source = {"name": "made", "format": "jsonl", "paths": [str(path)]}
        config = {
            "out": str(out),
            "sources": [source],
            "tokenizer": {"vocab_size": 1024},
            "split": {"train": 0.9, "validation": 0.09, "test": 0.01},
            "shard_tokens": "1M",
        }
        (Path(folder) / "corpus.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "manta.cli", "prepare", str(Path(folder) / "corpus.yaml")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return out


def chain() -> list[str]:
    """Texts of words, each of which has a few that follow it, some more often than others."""
    chance = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(3, 8))) for _ in range(WORDS)]
    following = {word: chance.sample(words, FOLLOWERS) for word in words}
    weights = [1 / (rank + 1) for rank in range(FOLLOWERS)]
    texts = []
    for _ in range(DOCUMENTS):
        text = [chance.choice(words)]
        while len(text) < DOCUMENT:
            text += chance.choices(following[text[-1]], weights)
        texts.append(" ".join(text))
    return texts


if __name__ == "__main__":
    main()

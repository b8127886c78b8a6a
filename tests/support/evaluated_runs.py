"""A run on real text with all three splits, small, trained in this process, to be evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from whole_runs import train_whole

from manta.config.corpus import CorpusConfig
from manta.config.run import RunConfig
from manta.corpus.prepare import prepare
from manta.elastic.checks.preflight import check
from manta.storage.run_folder import CONFIG

WORDS = ("fox", "dog", "sees", "runs", "over", "a", "the", "lazy", "brown", "to")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def text_corpus(folder: Path) -> Path:
    """A corpus of two sources, by a tokenizer that is trained on them; `inline` must be in use."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for source, step in (("web", 3), ("code", 7)):
        texts = [
            " ".join(WORDS[(number * step + k * k) % len(WORDS)] for k in range(3 + number % 20))
            for number in range(90)
        ]
        unique = [{"text": f"{source} {number} {text}"} for number, text in enumerate(texts)]
        path = lines(folder / f"{source}.jsonl", unique)
        sources.append({"name": source, "format": "jsonl", "paths": [str(path)]})
    config = {
        "out": str(folder / "corpus"),
        "sources": sources,
        "tokenizer": {"vocab_size": 300},
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
    }
    prepare(CorpusConfig.model_validate(config), progress=False)
    return folder / "corpus"


def trained_run(folder: Path, corpus: Path, name: str = "base", **changes: Any) -> Path:
    """The folder of a run that was trained for some steps, whose end was evaluated whole."""
    config = {
        "run": {"name": name, "storage": str(folder), "seed": 3},
        "corpus": str(corpus),
        "model": {"type": "llama", "sizes": SIZES},
        "train": {"seq_len": 32, "micro_batch": 4},
        "schedule": {"horizon": 32 * 8 * 12, "lr": 1e-2, "batch": 8},
        "checkpoint": {"every": 32 * 8 * 6},
        "eval": {"every": 32 * 8 * 12, "tokens": "1M"},
        "wandb": {"mode": "disabled"},
        **changes,
    }
    checked = check(RunConfig.model_validate(config))
    train_whole(checked)
    run = checked.run_dir
    if not (run / CONFIG).exists():
        (run / CONFIG).write_text(yaml.safe_dump(checked.config.model_dump(mode="json")))
    return run


def evaluation(folder: Path, **sections: Any) -> Path:
    """The config file of an evaluation."""
    path = folder / "eval.yaml"
    path.write_text(yaml.safe_dump({"name": "quality", **sections}))
    return path

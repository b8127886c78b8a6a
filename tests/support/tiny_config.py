"""A run small enough to train in a second, on a corpus that was really prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SEQ_LEN = 16
BATCH = 7
STEP = SEQ_LEN * BATCH  # tokens


def run_config(storage: Path, corpus: Path, **sections: Any) -> dict[str, Any]:
    """The config as a mapping; keywords update whole sections key by key."""
    config: dict[str, Any] = {
        "run": {"name": "tiny", "storage": str(storage), "seed": 3},
        "corpus": str(corpus),
        "model": {
            "type": "llama",
            "sizes": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": 128,
            },
        },
        "train": {"seq_len": SEQ_LEN, "micro_batch": 4},
        "schedule": {"horizon": 12 * STEP, "lr": 1e-3, "batch": BATCH},
        "scaling": {"min": 2, "resources_per_worker": {"CPU": 0.5}},
    }
    for name, keys in sections.items():
        config[name] = {**config.get(name, {}), **keys} if isinstance(keys, dict) else keys
    return config


def write_yaml(path: Path, config: dict[str, Any]) -> Path:
    """Write a config file; returns its path."""
    path.write_text(yaml.safe_dump(config))
    return path


def make_documents(folder: Path, count: int = 60) -> Path:
    """Small text files, all different; returns a glob of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        words = " ".join(f"word{(number * k) % 97} of {k}" for k in range(40))
        (folder / f"{number:03d}.txt").write_text(f"document {number}: {words}\n")
    return folder / "*.txt"


def corpus_config(out: Path, documents: Path) -> dict[str, Any]:
    """The config of a corpus of `documents`."""
    return {
        "out": str(out),
        "sources": [{"name": "made", "format": "text", "paths": [str(documents)]}],
        "tokenizer": {"vocab_size": 300},
        "split": {"train": 0.8, "validation": 0.15, "test": 0.05},
    }

"""Attempts to prepare a small corpus that are killed at a named place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from manta.config.corpus import CorpusConfig

TEXTS = [f"document {i}: {'lorem ipsum ' * (i % 7)}" for i in range(300)]

# Prepares without Ray's start-up time, and is killed at the n-th time a file gets its name.
KILLED_AT_RENAME = """
import os, signal, sys, threading
from pathlib import Path
import ray
from manta.config.corpus import CorpusConfig
from manta.corpus import worker_pool
from manta.corpus.prepare import prepare

left = int(sys.argv[2])
one_by_one = threading.Lock()  # shards get their names in another thread

def dying(real):
    def rename(*args):
        global left
        with one_by_one:
            left -= 1
            if left == 0 and sys.argv[3] == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    return rename

os.replace, os.rename = dying(os.replace), dying(os.rename)
worker_pool.run = lambda task, orders: map(task, orders)
ray.is_initialized = lambda: True
prepare(CorpusConfig.model_validate_json(sys.argv[1]), progress=False)
print("renames:", -left)
"""


def small_config(folder: Path) -> CorpusConfig:
    """Of a corpus of `TEXTS` in ``folder/out``; the input is written."""
    docs = folder / "docs.jsonl"
    docs.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return CorpusConfig.model_validate(
        {
            "out": str(folder / "out"),
            "sources": [{"name": "docs", "format": "jsonl", "paths": [str(docs)]}],
            "tokenizer": {"vocab_size": 300},
            "split": {"train": 0.8, "validation": 0.1, "test": 0.1},
            "shard_tokens": 600,
        }
    )


def killed_at(
    settings: CorpusConfig, rename: int, moment: str = "before"
) -> subprocess.CompletedProcess[str]:
    """An attempt that is killed before or after a file gets its name, by the number of these."""
    command = [sys.executable, "-c", KILLED_AT_RENAME, settings.model_dump_json()]
    return subprocess.run(
        [*command, str(rename), moment], capture_output=True, text=True, check=False
    )


def renames_of(settings: CorpusConfig) -> int:
    """How many files get their name in one undisturbed attempt, which is made."""
    done = killed_at(settings, 10**9)
    assert done.returncode == 0, done.stderr
    return 10**9 + int(done.stdout.split(":")[1])

"""Attempts to prepare a small corpus that are killed at a named place."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copied

from manta.config.corpus import CorpusConfig

TEXTS = [f"document {i}: {'lorem ipsum ' * (i % 7)}" for i in range(300)]


def attempt(settings: str, rename: str, moment: str) -> None:
    """Prepare without Ray's start; be killed before or after the n-th time a file gets its name."""
    import ray

    from manta.corpus import worker_pool
    from manta.corpus.prepare import prepare

    left = int(rename)
    one_by_one = threading.Lock()  # shards get their names in another thread

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def named(*args: Any) -> None:
            nonlocal left
            with one_by_one:
                left -= 1
                if left == 0 and moment == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                real(*args)
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return named

    os.replace, os.rename = dying(os.replace), dying(os.rename)
    worker_pool.run = lambda task, orders: map(task, orders)
    ray.is_initialized = lambda: True
    prepare(CorpusConfig.model_validate_json(settings), progress=False)
    print("renames:", -left)


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


def killed_at(settings: CorpusConfig, rename: int, moment: str = "before") -> int:
    """Make an attempt that is killed before or after a file gets its name; its exit status.

    Args:
        settings: what is prepared.
        rename: the number of that file among those that get their names.
        moment: "before" or "after".
    """
    started = copied.start(attempt, settings.model_dump_json(), str(rename), moment)
    started.communicate()
    assert started.returncode is not None
    return started.returncode


def renames_of(settings: CorpusConfig) -> int:
    """How many files get their name in one undisturbed attempt, which is made."""
    started = copied.start(attempt, settings.model_dump_json(), str(10**9), "before")
    said, _ = started.communicate()
    assert started.returncode == 0, said
    return 10**9 + int(said.rpartition("renames:")[2])


def stopped_on_ray(settings: str) -> None:
    """Prepare on a Ray of its own; stop, to be killed, once three shards are finished."""
    from manta.cluster.session import ray_session
    from manta.corpus import assemble
    from manta.corpus.prepare import prepare

    answers, real, finished = sys.stdout, assemble._shard, list[Any]()

    def stopping(*args: Any) -> Any:
        finished.append(real(*args))
        if len(finished) == 3:
            print("ready", file=answers, flush=True)
            sys.stdin.read()
        return finished[-1]

    assemble._shard = stopping
    sys.stdout = sys.stderr
    with ray_session():
        prepare(CorpusConfig.model_validate_json(settings), progress=False)

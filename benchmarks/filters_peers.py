"""What the benchmark of filters compares with; each is left out where it isn't installed."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

Judge = Callable[[str], object]


def datatrove_filters() -> dict[str, Judge]:
    """Datatrove's filters of the same rules, each with its defaults."""
    try:
        from datatrove.data import Document
        from datatrove.pipeline.filters import (
            C4QualityFilter,
            FineWebQualityFilter,
            GopherQualityFilter,
            GopherRepetitionFilter,
        )
        from datatrove.pipeline.formatters import PIIFormatter
    except ImportError:
        return {}
    rules = {
        "gopher_quality": GopherQualityFilter(),
        "gopher_repetition": GopherRepetitionFilter(),
        "fineweb": FineWebQualityFilter(),
        "c4": C4QualityFilter(),
    }

    for rule in rules.values():  # their tokenizer is loaded by the first document
        rule.filter(Document(text="The first one.", id="0"))

    def judge(rule: object) -> Judge:
        return lambda text: rule.filter(Document(text=text, id="0"))  # type: ignore[attr-defined]

    return {name: judge(rule) for name, rule in rules.items()} | {"privacy": PIIFormatter().format}


def datatrove_left_out(texts: Sequence[str]) -> list[int] | None:
    """The documents that datatrove's MinHash deduplication leaves out; None without it."""
    os.environ["TQDM_DISABLE"] = "1"
    try:
        from datatrove.executor import LocalPipelineExecutor
        from datatrove.pipeline.dedup.minhash import (
            MinhashConfig,
            MinhashDedupBuckets,
            MinhashDedupCluster,
            MinhashDedupFilter,
            MinhashDedupSignature,
        )
        from datatrove.pipeline.readers import JsonlReader
        from datatrove.pipeline.writers import JsonlWriter
        from loguru import logger
    except ImportError:
        return None
    logger.disable("datatrove")
    logging.disable(logging.INFO)
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    with tempfile.TemporaryDirectory(prefix="dt", dir="/tmp") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        lines = [json.dumps({"text": text, "id": str(at)}) for at, text in enumerate(texts)]
        (folder / "in" / "all.jsonl").write_text("\n".join(lines) + "\n")
        reader = JsonlReader(str(folder / "in"))
        signatures, buckets, remove = (str(folder / name) for name in ("sign", "buckets", "remove"))
        written = JsonlWriter(str(folder / "kept"), compression=None)
        stages = [
            ([reader, MinhashDedupSignature(signatures, config)], 1),
            ([MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets),
            ([MinhashDedupCluster(buckets, remove, config=config)], 1),
            ([reader, MinhashDedupFilter(remove), written], 1),
        ]
        for number, (pipeline, tasks) in enumerate(stages):
            LocalPipelineExecutor(
                pipeline, tasks=tasks, workers=1, logging_dir=str(folder / f"logs{number}")
            ).run()
        kept = {
            int(json.loads(line)["id"])
            for path in (folder / "kept").rglob("*.jsonl")
            for line in path.open()
        }
    return [at for at in range(len(texts)) if at not in kept]


def datasketch_left_out(
    texts: Sequence[str], words_of: Callable[[str], list[bytes]]
) -> list[int] | None:
    """The documents that an LSH of datasketch's finds an earlier one for; None without it."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        return None
    index, found = MinHashLSH(threshold=0.8, num_perm=126), []
    for at, text in enumerate(texts):
        sketch = MinHash(num_perm=126)
        sketch.update_batch(words_of(text))
        if index.query(sketch):
            found.append(at)
        index.insert(at, sketch)
    return found


def rensa_sketch(texts: Sequence[str], words_of: Callable[[str], list[str]]) -> object | None:
    """The sketches of rensa for the same n-grams; None without it."""
    try:
        from rensa import RMinHash
    except ImportError:
        return None
    made = []
    for text in texts:
        sketch = RMinHash(num_perm=126, seed=1)
        sketch.update(words_of(text))
        made.append(sketch.digest())
    return made

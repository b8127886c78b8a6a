"""How fast `manta prepare` is, beside a bare loop of `tokenizers`.

Both tokenize the same documents with the same tokenizer on the same cores, one after the
other, in turn:

- *prepare*: everything that `prepare` does from the files to the finished manifest (read,
  check, hash, drop duplicates, split, tokenize, write, sum up), on a Ray that is running;
- *bare*: `encode_batch` over documents that lie in memory already, on all cores, the token ids
  taken out and nothing done with them. *bare fast* is the same with `encode_batch_fast`.

The documents are the standard library's sources, each copied `--copies` times under a first
line that makes it another document. Run it on an otherwise idle machine, from the root:

    python benchmarks/prepare.py                # some two minutes on 2 cores
    python benchmarks/prepare.py --copies 4 --repeats 3 --cpus 2

It prints MB/s of text for each repeat, the medians, and the ratio prepare / bare with its
spread over the repeats; exit status 1 if the median ratio is below `--at-least`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BATCH = 256


def main() -> int:
    """Measure, print, judge."""
    options = _options()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ["RAYON_NUM_THREADS"] = str(options.cpus)
    with tempfile.TemporaryDirectory(prefix="mb", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        texts = _documents(options.copies)
        size = sum(len(text.encode()) for text in texts)
        tokenizer = _tokenizer(folder, texts)
        source = _written(folder, texts)
        ways: dict[str, Callable[[int], object]] = {
            "prepare": lambda turn: _prepare(source, tokenizer, folder / f"out{turn}"),
            "bare": lambda _: _bare(tokenizer, texts, "encode_batch"),
            "bare fast": lambda _: _bare(tokenizer, texts, "encode_batch_fast"),
        }
        _start_ray(options.cpus, folder)
        print(f"{len(texts)} documents, {size / 1e6:.1f} MB, {options.cpus} cores")
        try:
            speeds = _interleaved(ways, size, options.repeats)
        finally:
            _stop_ray()
    return _judge(speeds, options.at_least)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--at-least", type=float, default=0.8)
    return parser.parse_args()


def _documents(copies: int) -> list[str]:
    from manta.config.corpus import SourceSection
    from manta.corpus.sources import resolve

    files = resolve([SourceSection(name="stdlib", format="python-stdlib")])
    texts = [Path(file.url).read_text("utf-8") for file in files]
    return [f"# copy {copy}\n{text}" for copy in range(copies) for text in dict.fromkeys(texts)]


def _tokenizer(folder: Path, texts: list[str]) -> Path:
    """A tokenizer of 32k tokens, as a usual one: trained once, outside the measurement."""
    from manta.corpus.canonical import TOKENIZER_FILE
    from manta.corpus.tokenizer import train

    path = folder / TOKENIZER_FILE
    path.write_bytes(train(texts[: len(texts) // 5], 32_000).files[TOKENIZER_FILE])
    return path


def _written(folder: Path, texts: list[str]) -> Path:
    path = folder / "documents.jsonl"
    with path.open("w") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")
    return path


def _start_ray(cpus: int, folder: Path) -> None:
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder / "r"),
    )


def _stop_ray() -> None:
    import ray

    ray.shutdown()  # before its folder goes


def _prepare(source: Path, tokenizer: Path, out: Path) -> None:
    from manta.config.corpus import CorpusConfig
    from manta.corpus.prepare import prepare

    config = {
        "out": str(out),
        "sources": [{"name": "copies", "format": "jsonl", "paths": [str(source)]}],
        "tokenizer": {"path": str(tokenizer)},
    }
    prepare(CorpusConfig.model_validate(config), progress=False)


def _bare(tokenizer: Path, texts: list[str], method: str) -> None:
    from tokenizers import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    encode = getattr(Tokenizer.from_file(str(tokenizer)), method)
    for start in range(0, len(texts), BATCH):
        for encoding in encode(texts[start : start + BATCH], add_special_tokens=False):
            _ = encoding.ids


def _interleaved(
    ways: dict[str, Callable[[int], object]], size: int, repeats: int
) -> dict[str, list[float]]:
    """MB/s of each way; one repeat of all ways, then the next, so that drift hits them alike."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name, work in ways.items():
            begin = time.perf_counter()
            work(turn)
            speeds[name].append(size / 1e6 / (time.perf_counter() - begin))
        print("  ".join(f"{name} {found[-1]:6.2f} MB/s" for name, found in speeds.items()))
    return speeds


def _judge(speeds: dict[str, list[float]], at_least: float) -> int:
    for name, found in speeds.items():
        print(f"{name:<10} median {statistics.median(found):6.2f} MB/s")
    for name in ("bare", "bare fast"):
        ratios = [ours / bare for ours, bare in zip(speeds["prepare"], speeds[name], strict=True)]
        median = statistics.median(ratios)
        print(f"prepare / {name}: {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        if name == "bare" and median < at_least:
            print(f"below {at_least}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast a corpus's filters are, a core, and how well near-duplicates are found.

    python benchmarks/filters.py                       # all rows, some five minutes
    python benchmarks/filters.py --rows speed near     # some of: speed, near, quality, memory

- *speed*: MB of text a second of processor time that each filter judges, and all of them in a
  chain, beside datatrove's filters of the same rules in the same process, in turn;
- *near*: the same of the whole search for near-duplicates, from the texts to the documents that
  go, over work files as `manta prepare` has them; beside datatrove's four stages, and the sketches
  alone beside datasketch's and rensa's;
- *quality*: precision and recall on labelled pairs: a text and a copy edited with known strength,
  of which those with a true Jaccard similarity of 0.8 or more are near-duplicates;
- *memory*: the largest memory of that search over a corpus, and over one with ten times as many
  documents.

The texts are made of words of the standard library's sources, a tenth of the documents edited
copies of others. Peers come from `make bench-peers`; without them their rows are left out.
Exit status 1 if precision or recall is below 0.95, or the search is slower than `--at-least`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filters_peers import (
    datasketch_left_out,
    datatrove_filters,
    datatrove_left_out,
    rensa_sketch,
)
from filters_texts import NGRAM, edited, labelled_pairs, prose

from manta.config.filters import (
    BoilerplateSection,
    NearDuplicatesSection,
    PrivacySection,
    QualitySection,
    RepairSection,
    WordListSection,
)
from manta.corpus.filters.boilerplate import Boilerplate, line_hash
from manta.corpus.filters.compared_units import ComparedUnits
from manta.corpus.filters.contamination import OverlapIndex
from manta.corpus.filters.evaluations import ngrams_in
from manta.corpus.filters.filter_chain import Chain
from manta.corpus.filters.minhash import banding, sketches
from manta.corpus.filters.near_duplicates import Search
from manta.corpus.filters.privacy import Privacy
from manta.corpus.filters.quality import Quality
from manta.corpus.filters.repair import Repair
from manta.corpus.filters.stored_texts import write_texts
from manta.corpus.filters.word_lists import WordList, read_entries
from manta.corpus.leftovers import sketches_file, texts_file

ROWS = ("speed", "near", "quality", "memory")
SECTION = NearDuplicatesSection()
UNIT = 256  # documents
LEAST = 0.95  # precision and recall


def main() -> int:
    """Measure, print, judge."""
    options = _options()
    held = True
    if "speed" in options.rows:
        _speed(options)
    if "near" in options.rows:
        held &= _near(options)
    if "quality" in options.rows:
        held &= _quality(options)
    if "memory" in options.rows:
        _memory(options)
    return 0 if held else 1


# ------------------------------------------------------------------------------------- speed


def _speed(options: argparse.Namespace) -> None:
    texts = [_with_private(prose(seed), seed) for seed in range(options.documents)]
    size = _size(texts)
    bad = [f"word{number}" for number in range(5000)] + ["a phrase of words", "re:b[4a]dword"]
    lists = WordList(WordListSection(name="bad", path="-"), read_entries(bad, "-"))

    def quality(*rules: str) -> Quality:
        return Quality(QualitySection.model_validate({"rules": rules}))

    filters: dict[str, Any] = {
        "repair": Repair(RepairSection()),
        "privacy": Privacy(PrivacySection()),
        "lists": lists,
        "gopher_quality": quality("gopher_quality"),
        "gopher_repetition": quality("gopher_repetition"),
        "fineweb": quality("fineweb"),
        "c4": quality("c4"),
    }
    ours: dict[str, Callable[[str], object]] = {name: one.judge for name, one in filters.items()}
    rules = quality("gopher_quality", "gopher_repetition", "fineweb")
    chain = Chain([filters["repair"], filters["privacy"], lists, rules])
    ours["all of these but c4, in a chain"] = chain.judge
    menu = np.array([line_hash(f"line {number}") for number in range(1000)], np.uint64)
    ours["boilerplate"] = Boilerplate(BoilerplateSection(), menu).judge
    ngrams, _, _ = ngrams_in((prose(90_000 + seed, 80) for seed in range(2000)), 13)
    index = OverlapIndex(ngrams, np.zeros(len(ngrams), np.uint16))
    ours["decontaminate"] = lambda text: index.overlap(text, 13)
    theirs = {} if options.no_peers else datatrove_filters()
    print(f"\nfilters: {len(texts):,} documents, {size / 1e6:.1f} MB; MB/s a core\n")
    print("| filter | Manta | datatrove | ratio |\n| --- | --- | --- | --- |")
    for name, judge in ours.items():
        peer = theirs.get(name)
        few = texts[: max(1, len(texts) // 10)]  # of a peer that is ten times as slow
        speeds: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.repeats):
            speeds[0].append(_rate(judge, texts))
            if peer:
                speeds[1].append(_rate(peer, few))
        mine = statistics.median(speeds[0])
        if not peer:
            print(f"| {name} | {_spread(speeds[0])} | | |")
            continue
        other = statistics.median(speeds[1])
        print(f"| {name} | {_spread(speeds[0])} | {_spread(speeds[1])} | {mine / other:.1f} |")


def _with_private(text: str, seed: int) -> str:
    """The text; every fourth one with private data, and every tenth one with mojibake."""
    if seed % 4 == 0:
        text += f" Write to name{seed}@example.org, call (415) 555-{2000 + seed % 8000}."
    return text + " Thatâ€™s all it wasn’t." if seed % 10 == 0 else text


def _rate(judge: Callable[[str], object], texts: Sequence[str]) -> float:
    """MB/s of processor time."""
    start = time.process_time()
    for text in texts:
        judge(text)
    return _size(texts) / 1e6 / (time.process_time() - start)


# -------------------------------------------------------------------------- near-duplicates


def _near(options: argparse.Namespace) -> bool:
    texts = list(_corpus(options.documents, 600))
    size = _size(texts)
    print(f"\nnear-duplicates: {len(texts):,} documents, {size / 1e6:.1f} MB; MB/s a core\n")
    print("| what | MB/s | left out |\n| --- | --- | --- |")
    whole, parts = list[float](), dict[str, list[float]]()
    left = 0
    for _ in range(options.repeats):
        seconds, left = _searched(texts)
        whole.append(size / 1e6 / sum(seconds.values()))
        for name, spent in seconds.items():
            parts.setdefault(name, []).append(size / 1e6 / spent)
    print(f"| **Manta, all of the search** | {_spread(whole)} | {left:,} |")
    for name, speeds in parts.items():
        print(f"| Manta, {name} | {_spread(speeds)} | |")
    few = texts[: len(texts) // 5]
    for name, run in {
        "datatrove, all four stages": lambda: datatrove_left_out(few),
        "datasketch, sketches and LSH": lambda: datasketch_left_out(few, _ngram_bytes),
        "rensa, sketches alone": lambda: rensa_sketch(few, _ngram_texts),
    }.items():
        start = time.process_time() + _children()
        found = run()
        spent = time.process_time() + _children() - start
        if found is not None:
            count = f"{len(found):,} of {len(few):,}" if isinstance(found, list) else ""
            shown = "" if "alone" in name else count
            print(f"| {name} | {_size(few) / 1e6 / spent:.2f} | {shown} |")
    return statistics.median(whole) >= options.at_least


def _children() -> float:
    """Processor time of child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ngram_texts(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    runs = zip(*(words[start:] for start in range(NGRAM)), strict=False)
    return [" ".join(run) for run in runs]


def _ngram_bytes(text: str) -> list[bytes]:
    return [one.encode() for one in _ngram_texts(text)]


def _corpus(documents: int, words: int) -> Iterator[str]:
    """Documents, a tenth of them edited copies of earlier ones."""
    for seed in range(documents):
        if seed % 10 == 9:
            yield edited(prose(seed - 5, words), 0.002 * (seed // 10 % 10), seed)
        else:
            yield prose(seed, words)


def _searched(texts: Sequence[str]) -> tuple[dict[str, float], int]:
    """Seconds of each part of a search over work files, and the documents that it leaves out."""
    with tempfile.TemporaryDirectory(prefix="mf", dir="/tmp") as name:
        work = Path(name)
        start = time.process_time()
        begins = _written(work, iter(texts))
        sketched = time.process_time()
        left = _left_out(work, begins)
        end = time.process_time()
    return {"sketches": sketched - start, "candidates and comparison": end - sketched}, len(left)


def _written(work: Path, texts: Iterator[str]) -> list[int]:
    """Write the work files of units, as the first pass does; returns where each unit begins."""
    begins, held, unit = [0], list[str](), 0

    def close() -> None:
        nonlocal unit
        write_texts(texts_file(work, unit), [(0, text) for text in held])
        made = sketches(held, SECTION.words, banding(SECTION.threshold))
        np.save(sketches_file(work, unit), made)
        begins.append(begins[-1] + len(held))
        held.clear()
        unit += 1

    for text in texts:
        held.append(text)
        if len(held) == UNIT:
            close()
    if held:
        close()
    return begins


def _left_out(work: Path, begins: list[int]) -> list[int]:
    def order(unit: int) -> dict[str, Any]:
        texts = str(texts_file(work, unit))
        return {"unit": unit, "bytes": 0, "texts": texts, "records": False}

    def run(task: Any, orders: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        return map(task, orders)

    search = Search(SECTION, ComparedUnits(work, np.array(begins), order, run))
    count = begins[-1]
    found = search.found(np.ones(count, bool), np.zeros(count, np.int8))
    return list(found.documents.tolist())


# ----------------------------------------------------------------------------------- quality


def _quality(options: argparse.Namespace) -> bool:
    pairs = list(labelled_pairs(options.pairs))
    texts = [text for one, other, _ in pairs for text in (one, other)]
    similar = np.array([similarity for *_, similarity in pairs])
    near = int((similar >= SECTION.threshold).sum())
    print(f"\nquality: {len(pairs):,} pairs, {near:,} of them near-duplicates\n")
    columns = ("0.6 to 0.7", "0.7 to 0.8", "0.8 to 0.9", "0.9 to 1")
    print(f"| finder | precision | recall | found at {' | '.join(columns)} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="mf", dir="/tmp") as name:
        ours = _left_out(Path(name), _written(Path(name), iter(texts)))
    held = True
    for finder, left in {
        "**Manta**": ours,
        "datatrove (14 bands of 8)": datatrove_left_out(texts),
        "datasketch (LSH at 0.8)": datasketch_left_out(texts, _ngram_bytes),
    }.items():
        if left is None:
            continue
        found = np.isin(np.arange(len(pairs)), np.array(left) // 2)
        right = (found & (similar >= 0.8)).sum()
        precision, recall = right / max(found.sum(), 1), right / (similar >= 0.8).sum()
        cells = []
        for low in (0.6, 0.7, 0.8, 0.9):
            here = (similar >= low) & (similar < low + 0.1 + (low == 0.9))
            cells.append(f"{int(found[here].sum())} of {int(here.sum())}")
        print(f"| {finder} | {precision:.3f} | {recall:.3f} | {' | '.join(cells)} |")
        if left is ours:
            held = min(precision, recall) >= LEAST
    return held


# ------------------------------------------------------------------------------------ memory


def _memory(options: argparse.Namespace) -> None:
    print("\nmemory: MiB that the search takes at most, beside what it begins with\n")
    print("| documents | MB of text | MiB | bytes a document |\n| --- | --- | --- | --- |")
    for count in (options.few, options.few * 10):
        # A process of its own, as the largest memory of a process never goes down.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            size, most = pool.apply(_measured_search, (count,))
        print(f"| {count:,} | {size / 1e6:.0f} | {most / 2**20:.0f} | {most / count:.0f} |")


def _measured_search(count: int) -> tuple[int, int]:
    """Bytes of text, and of the memory that the search adds."""
    size = 0

    def counted() -> Iterator[str]:
        nonlocal size
        for text in _corpus(count, 160):
            size += len(text)
            yield text

    with tempfile.TemporaryDirectory(prefix="mf", dir="/tmp") as name:
        begins = _written(Path(name), counted())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _left_out(Path(name), begins)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size, (after - before) * 1024


# ----------------------------------------------------------------------------------- options


def _size(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    options.add_argument("--documents", type=int, default=10_000)
    options.add_argument("--pairs", type=int, default=2000)
    options.add_argument("--few", type=int, default=50_000, help="documents of the smaller corpus")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--no-peers", action="store_true", help="leave out datatrove's filters")
    options.add_argument("--at-least", type=float, default=1.5, help="MB/s a core of the search")
    return options.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""The data plane beside its peers: 1 GB of tokens, shuffled, as int64 batches of 8 × 2,048.

    python benchmarks/data.py --quick                # 64 MB, to try it
    python benchmarks/data.py --repeats 3            # 1 GB, in turn, medians
    python benchmarks/data.py --rows manta litdata   # rows whose names begin like that
    python benchmarks/data.py --soak 20              # memory of Manta's stream over 20 minutes

Each row runs in a process of its own, on one consumer: read for `--seconds`, or to the end of the
epoch where a system stops there (the column *read* has the share of an epoch), then go on, in new
processes, from the state saved in the middle: once alone, and once as two ranks that share each
batch. *exact* means that each following batch
has the samples that it had without the interruption.

- *steady*: tokens/s behind the first five seconds (or tenth of the epoch, where it ends).
- *first*: from asking for the dataset to the first batch; imports are done and, for rows on Ray,
  a Ray without any worker process is running: for Manta one as `manta train` starts it on one
  machine, for the others one as `ray.init` does.
- *held*: PSS without mapped files of all processes, at the end; in brackets before the reading.
- *CPU*: of all processes; percent of a core for each 1 M tokens/s.
- *spread*: mean range of sample ids in a batch; 1.00 is that of a uniform shuffle.

Token values are checked in all rows (whole batches at the beginning, then samples of them); the
order of Manta against the pure function, of the others that no sample comes twice.
The peers are those of `make bench-peers`; what isn't installed is named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from data_corpus import SEQ_LEN, corpus, quiet, samples_in
from data_rows import ROWS, Row

FULL, QUICK = 10**9, 2**26
MEASURE = Path(__file__).with_name("data_measure.py")
LIMIT = "bare gather"
SLACK_SECONDS = 150  # a row may need beside its reading: imports, Ray, a first shuffle
HEADS = [
    *("row", "steady M tokens/s", "of the gather", "first s", "held MiB", "mapped MiB", "CPU %"),
    *("spread", "read", "order", "resume s", "resumed", "on 2 ranks"),
]


def main() -> None:
    """Measure the rows that are asked for; print a table."""
    asked = _arguments()
    samples = samples_in(QUICK if asked.quick else asked.bytes)
    if asked.soak:
        row = ROWS["manta stream"]
        made = corpus(asked.folder, row.form, samples)
        with tempfile.TemporaryDirectory() as aside:
            _run(_task(row, made, samples, asked.soak * 60, Path(aside) / "state", "soak"))
        return
    wanted = [row for row in ROWS.values() if row.name.startswith(tuple(asked.rows))]
    missing = {row.needs for row in wanted if not importlib.util.find_spec(row.needs.split(".")[0])}
    results: dict[str, list[dict[str, Any]]] = {}
    for row in wanted:
        if row.needs not in missing:
            with quiet():
                corpus(asked.folder, row.form, samples)
    for repeat in range(asked.repeats):
        for row in wanted:
            if row.needs in missing:
                continue
            made = corpus(asked.folder, row.form, samples)
            _tell(f"{row.name}, repeat {repeat + 1}")
            results.setdefault(row.name, []).append(_measure(row, made, samples, asked))
            if asked.out:
                asked.out.write_text(json.dumps(results, indent=1))
    _print(wanted, results, samples, asked.repeats)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bytes", type=int, default=FULL, help="of tokens, two bytes each")
    parser.add_argument("--quick", action="store_true", help="64 MB of tokens")
    parser.add_argument("--rows", nargs="+", default=[""], help="how names of rows begin")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of reading, at most, a row")
    folder = Path(tempfile.gettempdir()) / "manta-benchmark-data"
    parser.add_argument("--folder", type=Path, default=folder, help="where the corpora are kept")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="memory over time")
    parser.add_argument("--out", type=Path, help="all figures as JSON")
    return parser.parse_args()


# --------------------------------------------------------------------------- measuring


def _measure(row: Row, made: Path, samples: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Read, then go on alone and as two ranks."""
    with tempfile.TemporaryDirectory() as aside:
        state = Path(aside) / "state"
        task = _task(row, made, samples, asked.seconds, state, "read")
        found = _run(task)
        if "error" in found or found["state_at"] is None:
            return found
        ids = np.load(f"{state}.ids.npy")[found["state_at"] :]
        for ranks in (1, 2):
            parts = _together(task, ranks)
            found[f"resumed_{ranks}"] = _compare(parts, ids)
            if ranks == 1 and "error" not in parts[0]:
                found["resume"] = parts[0]["first_batch"]
        return found


def _task(
    row: Row, made: Path, samples: int, seconds: float, state: Path, mode: str
) -> dict[str, Any]:
    return {
        "mode": mode,
        "row": row.name,
        "folder": str(made),
        "samples": samples,
        "seconds": seconds,
        "state": str(state),
    }


def _run(task: dict[str, Any]) -> dict[str, Any]:
    return _result(_start(task, {}), task)


def _together(task: dict[str, Any], ranks: int) -> list[dict[str, Any]]:
    """One process a rank, which find each other as those of `torchrun` do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    size = str(ranks)
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    tasks = [{**task, "mode": "resume", "rank": r, "world_size": ranks} for r in range(ranks)]
    running = []
    for rank, mine in enumerate(tasks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", **common}
        running.append(_start(mine, own if ranks > 1 else {}))
    return [_result(process, mine) for process, mine in zip(running, tasks, strict=True)]


def _start(task: dict[str, Any], more: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(MEASURE), json.dumps(task)]
    with Path(f"{task['state']}.{task['mode']}.{task.get('rank', 0)}.log").open("w") as complaint:
        out = None if task["mode"] == "soak" else complaint
        return subprocess.Popen(
            command,
            stdout=out,
            stderr=complaint,
            text=True,
            env={**os.environ, **more},
            start_new_session=True,
        )


def _result(process: subprocess.Popen[str], task: dict[str, Any]) -> dict[str, Any]:
    """What a process found, or the last line of its complaint."""
    stem = f"{task['state']}.{task['mode']}.{task.get('rank', 0)}"
    try:
        process.wait(timeout=SLACK_SECONDS + 2 * task["seconds"])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and its Ray and loader workers
        return {"error": f"nothing after {SLACK_SECONDS + 2 * task['seconds']:.0f} s"}
    if process.returncode:
        lines = Path(f"{stem}.log").read_text(errors="replace").splitlines()
        named = [line for line in lines if ("Error" in line or "rror:" in line) and "^" not in line]
        return {"error": (named or lines or ["no word"])[-1].strip()[:160].replace("|", "/")}
    found: dict[str, Any] = json.loads(Path(f"{stem}.json").read_text())
    return found


def _compare(parts: list[dict[str, Any]], ids: np.ndarray[Any, Any]) -> str:
    """Whether the ranks' batches, put together, are those that were to come."""
    for part in parts:
        if "error" in part:
            return f"refused: {part['error']}"
    got = np.concatenate([np.array(part["ids"]) for part in parts], axis=1)
    length = min(len(got), len(ids))
    got, ids = got[:length], ids[:length]
    if np.array_equal(np.sort(got, axis=1), np.sort(ids, axis=1)):
        return "exact"
    lost = len(np.setdiff1d(ids, got))
    return f"NOT exact: {lost} of the next {ids.size} missing"


# ----------------------------------------------------------------------------- telling


def _print(
    wanted: list[Row], results: dict[str, list[dict[str, Any]]], samples: int, repeats: int
) -> None:
    print(f"\n{samples * SEQ_LEN:,} tokens of uint16, {repeats} repeats, medians (range).\n")
    print("| " + " | ".join(HEADS) + " |\n|" + " --- |" * len(HEADS))
    limit = [found["tokens_per_s"] for found in results.get(LIMIT, []) if "error" not in found]
    for row in wanted:
        cells = _cells(results.get(row.name), statistics.median(limit) if limit else None)
        print("| " + " | ".join([row.name, *cells]) + " |")


def _cells(found: list[dict[str, Any]] | None, limit: float | None) -> list[str]:
    if found is None:
        return ["not installed: make bench-peers", *[""] * (len(HEADS) - 2)]
    errors = [one["error"] for one in found if "error" in one]
    if errors:
        return [f"failed: {errors[0]}", *[""] * (len(HEADS) - 2)]

    def middle(key: str) -> float:
        return statistics.median(one[key] for one in found)

    speeds = [one["tokens_per_s"] / 1e6 for one in found]
    many = f" ({min(speeds):.1f}–{max(speeds):.1f})" if len(found) > 1 else ""
    resumed = "resume" in found[0]
    return [
        f"{statistics.median(speeds):.1f}{many}",
        f"{middle('tokens_per_s') / limit:.2f}" if limit else "",
        f"{middle('first_batch'):.2f}",
        f"{middle('held_mib'):.0f} ({middle('idle_mib'):.0f})",
        f"{middle('mapped_mib'):.0f}",
        f"{middle('cpu_percent_per_m'):.2f}",
        f"{middle('spread'):.2f}",
        f"{middle('share'):.0%}",
        _all(found, "order"),
        f"{middle('resume'):.2f}" if resumed else "",
        _all(found, "resumed_1") if "resumed_1" in found[0] else "has no state",
        _all(found, "resumed_2") if "resumed_2" in found[0] else "has no state",
    ]


def _all(found: list[dict[str, Any]], key: str) -> str:
    """What all repeats say, or each of the things that they say."""
    return "; ".join(sorted({one[key] for one in found}))


def _tell(line: str) -> None:
    print(f"… {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

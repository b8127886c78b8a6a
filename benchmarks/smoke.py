"""Has something become slow? Ratios that noise on a shared machine does not move across a limit.

    python benchmarks/smoke.py                              what CI runs; exit status 1 if it has
    python benchmarks/smoke.py --repeats 5 [--load]         how the limits were found

Nothing is compared with a time: each speed is a ratio of two things that were measured in turn in
one process on one machine, and the rest is counted. Takes about a minute on two cores.

How the limits were found: every check ran four times on two cores that did nothing else, and up to
three times with `--load`, which keeps each core busy with another process. The extremes of both
are in CHECKS below. A limit lies beyond the worst of them by at least a tenth of it, unless it is
a plain count, and before what the check is there to notice: so many times worse than the best
seen idle. What other tenants of a machine do to its memory for a minute can still push a speed
beyond its limit; a change of the code is there each time. So a value beyond its limit is
measured again, and it has regressed if no one of ATTEMPTS values holds.
tests/test_smoke.py holds the limits to all this.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "platform"), str(HERE)]

import smoke_start  # noqa: E402
import smoke_step  # noqa: E402
import smoke_stream  # noqa: E402

SPIN = "while True: pass"
ATTEMPTS = 3


@dataclass(frozen=True)
class Check:
    """A ratio or a count, and the limit that says it has regressed.

    Attributes:
        name: what is measured over what.
        measure: gives the value.
        wants: on which side of the limit the value has to be; the limit itself is fine.
        limit: see above.
        idle: smallest and largest value that were seen with nothing else on the machine.
        loaded: the same with another process on every core.
        notices: how many times worse than idle a value must be called a regression.
    """

    name: str
    measure: Callable[[], float]
    wants: Literal["at least", "at most"]
    limit: float
    idle: tuple[float, float]
    loaded: tuple[float, float]
    notices: float

    def holds(self, value: float) -> bool:
        """Whether a value is on the right side; one that is no number never is."""
        return value >= self.limit if self.wants == "at least" else value <= self.limit

    def row(self, value: float) -> str:
        """The value beside its limit, for people."""
        seen = " and ".join(
            f"{low:.3g} to {high:.3g} {how}"
            for how, (low, high) in (("idle", self.idle), ("loaded", self.loaded))
        )
        word = "ok" if self.holds(value) else "REGRESSED"
        return f"{word:9}  {self.name}: {value:.3g} ({self.wants} {self.limit:.3g}; seen {seen})"


CHECKS = (
    Check(
        "heavy libraries loaded by manta --help",
        smoke_start.heavy_imports_of_help,
        *("at most", 0),
        idle=(0, 0),
        loaded=(0, 0),
        notices=1,
    ),
    Check(
        "heavy libraries loaded to find a mistake in a config",
        smoke_start.heavy_imports_of_a_config_error,
        *("at most", 0),
        idle=(0, 0),
        loaded=(0, 0),
        notices=1,
    ),
    Check(
        "processor time of manta --help / of importing Typer, Pydantic, YAML",
        smoke_start.help_over_libraries,
        *("at most", 1.25),
        idle=(0.86, 1.05),
        loaded=(0.86, 1.01),
        notices=1.5,
    ),
    Check(
        "tokens/s of the engine's step / of a plain loop's",
        smoke_step.step_over_plain,
        *("at least", 0.84),
        idle=(0.989, 1.05),
        loaded=(0.941, 1.007),
        notices=1.3,
    ),
    Check(
        "tokens/s of the stream in one process / of a bare gather",
        smoke_stream.local_over_gather,
        *("at least", 0.55),
        idle=(0.763, 1.61),
        loaded=(0.696, 0.696),
        notices=3,
    ),
    Check(
        "tokens/s of the stream on Ray / of as many blank ones by Ray Data alone",
        lambda: smoke_stream.on_ray().over_blank,
        *("at least", 0.55),
        idle=(0.867, 2),
        loaded=(1.02, 1.83),
        notices=4,
    ),
    Check(
        "cores kept busy by a stream that has read as far ahead as it may",
        lambda: smoke_stream.on_ray().resting,
        *("at most", 0.25),
        idle=(0.003, 0.0044),
        loaded=(0.0021, 0.0032),
        notices=150,
    ),
    Check(
        "bytes of the corpus touched / bytes of the tokens delivered",
        smoke_stream.bytes_read_over_tokens,
        *("at most", 1.2),
        idle=(1.05, 1.06),
        loaded=(1.05, 1.06),
        notices=1.25,
    ),
    Check(
        "bytes put into Ray's object store / bytes of the tokens delivered",
        lambda: smoke_stream.on_ray().stored_over_tokens,
        *("at most", 1.2),
        idle=(1.007, 1.008),
        loaded=(1.007, 1.008),
        notices=1.25,
    ),
    Check(
        "share of batches that lie in the object store's memory, not in a copy",
        lambda: smoke_stream.on_ray().mapped,
        *("at least", 1),
        idle=(1, 1),
        loaded=(1, 1),
        notices=1.01,
    ),
)


def regressions(values: Sequence[float | None]) -> list[str]:
    """The names of the checks that do not hold, given the value of each; None was not measured."""
    return [
        check.name
        for check, value in zip(CHECKS, values, strict=True)
        if value is not None and not check.holds(value)
    ]


def measured(attempts: int = 1) -> list[float | None]:
    """The value of each check, shown as it comes; None if it can't be measured here."""
    smoke_stream.on_ray.cache_clear()
    values: list[float | None] = []
    for check in CHECKS:
        try:
            values.append(tried(check, attempts))
        except smoke_stream.NotHere as reason:
            values.append(None)
            print(f"skipped    {check.name}: {reason}", flush=True)
    return values


def tried(check: Check, attempts: int) -> float:
    """The first value that holds, else the last of so many."""
    values: list[float] = []
    while not values or (not check.holds(values[-1]) and len(values) < attempts):
        if values:
            smoke_stream.on_ray.cache_clear()
        values.append(check.measure())
        print(check.row(values[-1]), flush=True)
    return values[-1]


@contextmanager
def load_on_every_core() -> Iterator[None]:
    """Another busy process on each core while the block runs."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def extremes(repeats: int) -> Iterator[tuple[str, float, float]]:
    """Each check's name with the smallest and the largest of so many values."""
    rounds = [measured() for _ in range(repeats)]
    for check, *values in zip(CHECKS, *rounds, strict=True):
        found = [value for value in values if value is not None]
        if found:
            yield check.name, min(found), max(found)


def main() -> None:
    """Measure, show, and end with status 1 if something regressed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, help="show the extremes of so many values instead")
    parser.add_argument("--load", action="store_true", help="keep every core busy meanwhile")
    parser.add_argument("--out", type=Path, help="write the values there as JSON")
    arguments = parser.parse_args()
    if arguments.repeats:
        with load_on_every_core() if arguments.load else nullcontext():
            for name, low, high in extremes(arguments.repeats):
                print(f"{low:.4g} to {high:.4g}  {name}")
        return
    values = measured(ATTEMPTS)
    if arguments.out:
        found = {check.name: value for check, value in zip(CHECKS, values, strict=True)}
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    if regressed := regressions(values):
        sys.exit("regressed: " + "; ".join(regressed))


if __name__ == "__main__":
    main()

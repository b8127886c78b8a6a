"""The smoke benchmark's judgement: what counts as a regression, and that the limits have room."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def smoke() -> Iterator[ModuleType]:
    """The benchmark as a module; nothing of it is measured here."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import smoke

        yield smoke
    finally:
        sys.path[:] = before


def test_the_limits_hold_for_everything_that_was_seen(smoke) -> None:
    for check in smoke.CHECKS:
        for low, high in (check.idle, check.loaded):
            assert low <= high, check.name
            assert check.holds(low), check.name
            assert check.holds(high), check.name


def test_noise_as_large_as_all_that_was_seen_crosses_no_limit(smoke) -> None:
    """A speed that lies as far beyond the worst seen as the worst from the best is still fine."""
    for check in smoke.CHECKS:
        seen = [*check.idle, *check.loaded]
        worst, best = (
            (min(seen), max(seen)) if check.wants == "at least" else (max(seen), min(seen))
        )
        assert check.holds(worst * worst / best if best else worst), check.name


def test_what_has_halved_or_doubled_since_it_was_seen_idle_is_named(smoke) -> None:
    for position, check in enumerate(smoke.CHECKS):
        fine = [one.idle[0] for one in smoke.CHECKS]
        assert smoke.regressions(fine) == []
        low, high = check.idle
        fine[position] = low / check.notices if check.wants == "at least" else high * check.notices
        if check.idle == (0, 0):
            fine[position] = 1
        assert smoke.regressions(fine) == [check.name]


def test_what_is_no_number_never_holds(smoke) -> None:
    assert not any(check.holds(float("nan")) for check in smoke.CHECKS)

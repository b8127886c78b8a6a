"""The smoke benchmark's judgement: what counts as a regression, and that the limits have room."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
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


def values_seen(check) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """The worst and the best value that were seen, idle or loaded."""
    seen = (*check.idle, *check.loaded)
    return (min(seen), max(seen)) if check.wants == "at least" else (max(seen), min(seen))


def test_the_limits_have_room_for_noise(smoke) -> None:
    """A tenth beyond the worst that was seen is no regression yet; a count has no noise."""
    for check in smoke.CHECKS:
        worst, best = values_seen(check)
        assert check.holds(best), check.name
        assert check.holds(worst), check.name
        if worst != best:
            assert check.holds(worst * (0.9 if check.wants == "at least" else 1.1)), check.name


def test_a_regression_is_named_alone(smoke) -> None:
    """So many times worse than the *best* seen idle, as each check promises to notice."""
    good = [one.idle[0] for one in smoke.CHECKS]
    assert smoke.regressions(good) == []
    assert smoke.regressions([None] * len(good)) == []
    for place, check in enumerate(smoke.CHECKS):
        low, high = check.idle
        worse = high / check.notices if check.wants == "at least" else low * check.notices
        values = [*good[:place], worse or 1, *good[place + 1 :]]
        assert smoke.regressions(values) == [check.name]


def test_what_is_no_number_never_holds(smoke) -> None:
    assert not any(check.holds(float("nan")) for check in smoke.CHECKS)


def test_only_what_is_slow_each_time_has_regressed(smoke, capsys) -> None:
    """A neighbour on the machine disturbs one attempt; a change of the code all of them."""
    speed = next(check for check in smoke.CHECKS if check.wants == "at least" and check.limit < 1)

    def last_of(values: list[float]) -> float:
        coming = iter(values)
        return smoke.tried(replace(speed, measure=lambda: next(coming)), smoke.ATTEMPTS)

    good, bad = speed.idle[0], speed.limit / 2
    assert last_of([good]) == good
    assert last_of([bad, bad, good]) == good
    assert last_of([bad, bad, bad, good]) == bad
    assert capsys.readouterr().out.count("REGRESSED") == 5

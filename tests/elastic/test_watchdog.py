"""What counts as a hang: the watchdog and the mailbox, on a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plain_runs import Rows, engine_of, streams_of
from tiny_config import STEP, run_config

from manta.config import RunConfig
from manta.elastic.checks.preflight import Checked, check
from manta.elastic.controller.watchdog import BEGINNING, Watchdog
from manta.elastic.messages.mailbox import Mailbox
from manta.state.checkpoint_files import TrainState
from manta.train.loop import Loop

HANG = 120.0


class Watched:
    """A group under a watchdog, in a time of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.mailbox = Mailbox(0, clock=lambda: self.now)
        attempt, _ = self.mailbox.begin_attempt()
        self._watchdog = Watchdog(HANG, attempt)
        self.attempt = attempt

    def hangs_after(self, seconds: float) -> bool:
        """Whether it counts as a hang if so much time passes now."""
        self.now += seconds
        return self._watchdog.barks(self.mailbox.progress())


def test_a_group_that_shows_nothing_yet_has_time() -> None:
    """It imports, loads, compiles; one that takes steps or parts of an evaluation has less."""
    watched = Watched()
    beginning = 0.99 * BEGINNING * HANG
    for doing in ("loading", "compiling", "saving"):
        watched.mailbox.busy(watched.attempt, doing, 0.0)
        assert not watched.hangs_after(beginning)
    watched.mailbox.stepped(watched.attempt, 1, 10)
    assert not watched.hangs_after(0.99 * HANG)
    assert watched.hangs_after(0.02 * HANG)
    watched.mailbox.busy(watched.attempt, "evaluating", 0.0)
    assert not watched.hangs_after(beginning)
    watched.mailbox.busy(watched.attempt, "evaluating", 0.4)
    assert not watched.hangs_after(0.99 * HANG)
    assert watched.hangs_after(0.02 * HANG)
    assert watched.mailbox.progress().doing == "evaluating"
    watched.mailbox.busy(watched.attempt, "saving", 0.0)
    assert not watched.hangs_after(beginning)
    assert watched.hangs_after(0.02 * BEGINNING * HANG)


def test_a_group_of_long_steps_has_as_much_time_for_other_things() -> None:
    watched = Watched()
    for step in range(1, 4):
        watched.now += 10 * HANG
        watched.mailbox.stepped(watched.attempt, step, step)
    watched.mailbox.busy(watched.attempt, "evaluating", 0.5)
    assert not watched.hangs_after(50 * HANG)


def test_the_driver_hears_what_is_done_and_when_it_is_over() -> None:
    watched = Watched()
    signs = [("evaluating", 0.0), ("evaluating", 0.001), ("evaluating", 0.5), ("saving", 0.0)]
    for doing, share in signs:
        watched.mailbox.busy(watched.attempt, doing, share)
    watched.mailbox.busy(watched.attempt - 1, "loading", 0.0)  # a group that is no more
    watched.mailbox.stepped(watched.attempt, 1, 10)
    watched.mailbox.stepped(watched.attempt, 2, 20)
    heard = [(event.doing, event.share) for event in watched.mailbox.take(0)]
    assert heard == [signs[0], signs[2], signs[3], ("", 1.0)]


class Slow(Rows):
    """A reporter on whose clock each part of a run takes nearly as long as it may."""

    def __init__(self, path: Path, watched: Watched, takes: Callable[[str, float], float]):
        super().__init__(path)
        self.watched, self._takes, self._steps = watched, takes, 0
        self.seconds: dict[str, float] = {}

    def stepped(self, state: TrainState) -> None:
        self._steps += 1
        self.watched.mailbox.stepped(self.watched.attempt, self._steps, state.tokens)
        self._pass("a step", 0.5)

    def busy(self, doing: str, share: float = 0.0) -> None:
        self.watched.mailbox.busy(self.watched.attempt, doing, share)
        self._pass(doing, share)

    def _pass(self, doing: str, share: float) -> None:
        """Let time go by, as if what comes until the next sign took it."""
        seconds = self._takes(doing, share)
        self.seconds[doing] = self.seconds.get(doing, 0.0) + seconds
        assert not self.watched.hangs_after(seconds), f"{doing}, {share:.0%}"


def nearly(doing: str, share: float) -> float:
    """What begins takes long, what goes on takes nearly as much as is always fine."""
    return 0.99 * HANG * (1.0 if share else BEGINNING)


@pytest.fixture
def checked(tmp_path: Path, make_corpus: Callable[..., Any]) -> Checked:
    """A run with evaluations of many forward passes, the last smaller than the others."""
    make_corpus(tmp_path / "corpus", {"train": [[17] * 60], "validation": [[11] * 30]})
    config = run_config(
        tmp_path,
        tmp_path / "corpus",
        schedule={"horizon": 4 * STEP},
        train={"micro_batch": 1},
        eval={"every": STEP, "tokens": STEP},
        checkpoint={"every": STEP},
    )
    made = check(RunConfig.model_validate(config))
    made.run_dir.mkdir()
    return made


def test_no_part_of_a_run_is_a_hang_as_long_as_it_gets_on(checked: Checked) -> None:
    watched = Watched()
    reporter = Slow(checked.run_dir / "rows", watched, nearly)
    loop = Loop(checked.job(watched.attempt, "here"), engine_of(checked), reporter)
    assert loop.run(streams_of(checked)) == "finished"
    assert reporter.seconds["evaluating"] > 5 * BEGINNING * HANG
    assert {"loading", "beginning to train", "saving", "a step"} < reporter.seconds.keys()


def test_an_evaluation_that_does_not_get_on_is_one(checked: Checked) -> None:
    def stuck(doing: str, share: float) -> float:
        return 1.01 * HANG if doing == "evaluating" and share > 0.5 else 0.0

    watched = Watched()
    reporter = Slow(checked.run_dir / "rows", watched, stuck)
    loop = Loop(checked.job(watched.attempt, "here"), engine_of(checked), reporter)
    with pytest.raises(AssertionError, match="evaluating, 57%"):
        loop.run(streams_of(checked))

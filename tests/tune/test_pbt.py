"""A population in every order of events: the same trials take over from the same ones."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manta.record.sweep_state import SweepState, SweepTrial, Takeover
from manta.tune.pbt import Population, verdict
from manta.tune.scheduler import room

END = 100
MARKS = (25, 50, 75)


# At one mark.


@pytest.mark.parametrize(
    ("members", "quantile", "replaced"),
    [
        (1, 0.25, 0),
        (2, 0.25, 1),
        (3, 0.25, 1),
        (4, 0.25, 1),
        (5, 0.25, 2),
        (8, 0.25, 2),
        (3, 0.5, 1),
        (9, 0.5, 4),
        (100, 0.07, 7),  # as floats 100 × 0.07 is a little more than 7
    ],
)
def test_a_quantile_is_rounded_up_but_at_most_half(
    members: int, quantile: float, replaced: int
) -> None:
    names = [f"t{number}" for number in range(members)]
    found = verdict(names, 0, quantile)
    assert found.replaced == tuple(names[members - replaced :])
    assert found.donors == tuple(names[:replaced])
    assert found.go_on == tuple(names[: members - replaced])


@given(st.permutations(range(7)), st.floats(0.01, 0.5))
def test_who_goes_on_before_all_have_come_is_not_replaced_later(
    order: list[int], quantile: float
) -> None:
    """Scores are the numbers themselves; they come in any order."""
    let_go: set[str] = set()
    for count in range(1, len(order) + 1):
        came = [str(score) for score in sorted(order[:count])]
        found = verdict(came, len(order) - count, quantile)
        assert let_go <= set(found.go_on)
        let_go = set(found.go_on)
        assert bool(found.replaced) == (count == len(order))
    assert not let_go & set(found.replaced)
    assert let_go | set(found.replaced) == set(map(str, order))


# Over a whole sweep.


def chance(*parts: object) -> random.Random:
    """What is drawn follows from names alone."""
    return random.Random(zlib.crc32(repr(parts).encode()))


def score(name: str, mark: int) -> float:
    return chance("score", name, mark).random()


class Sweep:
    """A population that is trained without training anything.

    A trial scores by its name and the mark; `diverging` says where one breaks, if it does.
    """

    def __init__(self, trials: Sequence[SweepTrial], quantile: float, diverging: float = 0.0):
        self.quantile, self.diverging = quantile, diverging
        self.trained = dict.fromkeys((t.name for t in trials), 0)
        self.open(SweepState(name="s", status="running", trials=list(trials)))

    def open(self, state: SweepState) -> None:
        self.state = state
        self.progress = Population(state, self.forked, MARKS, self.quantile, self.take_over)

    def forked(self, trial: SweepTrial) -> bool:
        return self.progress[str(trial.parent)].tokens >= trial.fork_tokens

    def take_over(self, loser: str, donors: Sequence[str], mark: int) -> SweepTrial:
        name = f"t{len(self.state.trials):02d}"
        donor = chance("donor", name, mark).choice(donors)
        taken = waiting(name, donor, mark)
        taken.takeover = Takeover(donor=donor, loser=loser, at=mark)
        self.state.trials.append(taken)
        self.trained[name] = 0
        return taken

    def breaks_at(self, name: str) -> int | None:
        dice = chance("breaks", name)
        return dice.randrange(1, END) if dice.random() < self.diverging else None

    def run(self, slots: int, events: random.Random) -> Sweep:
        held: set[str] = set()
        for _ in range(10_000):
            running = self.progress.running
            if len(running) < room(slots, 1, slots) and (found := self.progress.next()):
                self.progress.start(found.name)
                continue
            if not running:
                assert self.progress.over
                return self
            leg = events.choice(running)
            event = events.choice(["on"] * 8 + ["lost", "killed"])
            if event == "killed":
                held.clear()
                self.open(SweepState.model_validate_json(self.state.model_dump_json()))
            elif event == "lost" and leg.tokens > leg.fork_tokens and not leg.failures:
                held.discard(leg.name)
                self.progress.ended(leg.name, "lost", tokens=leg.tokens)
            elif leg.name in held and events.random() < 0.7:
                held.discard(leg.name)
                self.progress.ended(leg.name, "paused", tokens=leg.tokens)
            else:
                self.advance(leg, held)
        raise AssertionError("it does not end")

    def advance(self, leg: SweepTrial, held: set[str]) -> None:
        """To the next mark or the end, also if it is held and has not heard of it yet."""
        stands = max(leg.tokens, leg.fork_tokens)
        for mark in [mark for mark in MARKS if leg.fork_tokens < mark <= stands]:
            self.progress.scored(leg.name, mark, score(leg.name, mark))  # told again
        goal = next((mark for mark in MARKS if mark > stands), END)
        breaks = self.breaks_at(leg.name)
        if breaks is not None and stands < breaks <= goal:
            held.discard(leg.name)
            self.trained[leg.name] += breaks - stands
            self.progress.ended(leg.name, "diverged", tokens=breaks, reason="NaN")
            return
        self.trained[leg.name] += goal - stands
        leg.tokens = goal
        if goal == END:
            self.progress.ended(leg.name, "finished", tokens=END)
        elif not self.progress.scored(leg.name, goal, score(leg.name, goal)):
            held.add(leg.name)

    @property
    def lineage(self) -> list[tuple[str, Takeover | None, str, tuple[int, ...]]]:
        """Who took over from whom, how each ended, and which marks it passed."""
        return [(t.name, t.takeover, t.status, tuple(t.passed)) for t in self.state.trials]


def waiting(name: str, parent: str | None = None, fork: int = 0) -> SweepTrial:
    return SweepTrial(
        name=name, parent=parent, fork_step=fork, fork_tokens=fork, end_tokens=END, status="waiting"
    )


def apart(count: int) -> list[SweepTrial]:
    return [waiting(f"t{number:02d}") for number in range(count)]


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 8])
def test_a_takeover_happens_at_each_mark_whatever_trains_at_once(slots: int) -> None:
    swept = Sweep(apart(4), 0.25).run(slots, random.Random(0))
    takeovers = [trial.takeover for trial in swept.state.trials if trial.takeover]
    assert [taken.at for taken in takeovers] == list(MARKS)
    for taken in takeovers:
        loser, donor = swept.progress[taken.loser], swept.progress[taken.donor]
        assert donor.scores[taken.at] < loser.scores[taken.at]
        assert taken.at not in loser.passed
        assert loser.reason.startswith("replaced by t")


@given(
    st.integers(1, 7),
    st.sampled_from([0.1, 0.25, 0.4, 0.5]),
    st.sampled_from([0.0, 0.3]),
    st.integers(1, 8),
    st.integers(),
)
def test_who_takes_over_depends_on_nothing_but_scores(
    count: int, quantile: float, diverging: float, slots: int, seed: int
) -> None:
    """Not on the order of events, on how many train at once, on lost legs and killed drivers."""
    one = Sweep(apart(count), quantile, diverging).run(1, random.Random(0))
    other = Sweep(apart(count), quantile, diverging).run(slots, random.Random(seed))
    assert other.lineage == one.lineage
    population = {t.name for t in one.state.trials} - {
        t.takeover.loser for t in one.state.trials if t.takeover
    }
    assert len(population) == count, "each that is replaced is replaced by one"
    ended = {one.progress[name].status for name in population}
    assert ended <= ({"finished", "diverged"} if diverging else {"finished"})


def test_the_population_goes_on_together() -> None:
    """With one slot nobody is more than a mark ahead of one that could train."""
    swept = Sweep(apart(4), 0.25)
    progress = swept.progress
    order = []
    while (found := progress.next()) is not None:
        progress.start(found.name)
        goal = next((mark for mark in MARKS if mark > max(found.tokens, found.fork_tokens)), END)
        order.append(goal)
        found.tokens = goal
        if goal == END:
            progress.ended(found.name, "finished", tokens=END)
        else:
            progress.scored(found.name, goal, score(found.name, goal))
            progress.ended(found.name, "paused", tokens=goal)
    assert order == sorted(order)
    assert order.count(END) == 4


def test_who_comes_first_is_held_until_it_is_compared() -> None:
    swept = Sweep(apart(2), 0.5)
    progress = swept.progress
    for name in ("t00", "t01"):
        progress.start(name)
    assert not progress.scored("t00", 25, 1.0)
    assert progress.scored("t01", 25, 0.5)
    assert [t.takeover for t in swept.state.trials[2:]] == [
        Takeover(donor="t01", loser="t00", at=25)
    ]
    progress["t00"].tokens = progress["t01"].tokens = 25
    progress.ended("t00", "paused", tokens=26)
    assert (progress["t00"].status, progress["t00"].reason) == ("stopped", "replaced by t02")
    again = progress.next()
    assert again is not None
    assert again.name == "t02"


def test_trials_that_are_one_training_are_members_like_others() -> None:
    """The one that trains for the others is replaced last, so that these have a beginning."""
    fan = [waiting("t00"), waiting("t01", "t00", 60), waiting("t02"), waiting("t03")]
    swept = Sweep(fan, 0.5)
    progress = swept.progress
    for name in ("t00", "t02", "t03"):
        progress.start(name)
    scores = {"t00": 3.0, "t02": 1.0, "t03": 2.0}
    for name, value in scores.items():
        progress.scored(name, 25, value)
    losers = [t.takeover.loser for t in swept.state.trials if t.takeover]
    assert losers == ["t00", "t01"], "both are the worst, by one score"
    assert progress["t01"].status == "stopped"

    swept = Sweep([waiting(t.name, t.parent, t.fork_tokens) for t in fan], 0.25)
    progress = swept.progress
    for name, value in scores.items():
        progress.start(name)
        progress.scored(name, 25, value)
    assert [t.takeover.loser for t in swept.state.trials if t.takeover] == ["t01"]
    assert progress["t00"].passed == [25]


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.sampled_from([0.25, 0.5]),
    st.sampled_from([0.0, 0.3]),
    st.integers(1, 4),
    st.integers(),
)
@example([1, 1, 0, 3, 0], 0.25, 0.0, 1, 1)  # t03 finishes before it hears that it is held at 50
def test_populations_that_share_beginnings_end_whole(
    parents: list[int], quantile: float, diverging: float, slots: int, seed: int
) -> None:
    def fan() -> list[SweepTrial]:
        found = [waiting("t00")]
        for number, choice in enumerate(parents, 1):
            above = found[choice % len(found)]
            fork = above.fork_tokens + 20 * (1 + choice)
            parent = above.name if fork < END and choice else None
            found.append(waiting(f"t{number:02d}", parent, fork if parent else 0))
        return found

    one = Sweep(fan(), quantile, diverging).run(1, random.Random(0))
    other = Sweep(fan(), quantile, diverging).run(slots, random.Random(seed))
    assert other.lineage == one.lineage
    if not diverging:
        assert [t.status for t in one.state.trials].count("finished") == len(parents) + 1
    assert sum(one.trained.values()) >= one.progress.trained

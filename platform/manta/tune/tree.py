"""The stage tree: what a set of trials has in common is trained once.

A *stage* is a maximal stretch of steps in which a set of trials are still the same training. The
trials that share a beginning form a radix tree over their steps. A *branch* says who trains what:
a trial trains from the step at which it leaves its parent up to its own end, and of the trials
that go on from a stage, the one with the longest way goes on in place (the critical path first).

Stage trees for tuning over schedules are due to Hippo (Shin et al., 2020).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from manta.schedule import Schedule
from manta.schedule.sharing import shared_steps


@dataclass(frozen=True)
class Training:
    """What a trial trains: equal trainings give equal weights, to the bit.

    Attributes:
        name: of the trial.
        identity: everything beside the schedule that can change a weight or what is measured.
        schedule: of the trial.
    """

    name: str
    identity: str
    schedule: Schedule

    def shared_steps(self, other: Training) -> int:
        """How many steps from the first on are the same update in both."""
        if self.identity != other.identity:
            return 0
        return shared_steps(self.schedule, other.schedule)

    @property
    def digest(self) -> str:
        """A digest of all that it trains."""
        text = repr((self.identity, self.schedule))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def tokens_after(self, step: int) -> int:
        """Tokens consumed after `step` steps."""
        return self.schedule.step(step - 1).tokens_after if step else 0


@dataclass(frozen=True)
class Stage:
    """The steps ``(first, last]``, numbered from 1, that `trials` train alike.

    `tokens` is what they consume, `ends` the trials whose last step is `last`.
    """

    first: int
    last: int
    tokens: int
    trials: tuple[str, ...]
    ends: tuple[str, ...]
    children: tuple[Stage, ...]

    def walk(self) -> Iterator[Stage]:
        """This stage and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def way(self) -> int:
        """Tokens from the begin of this stage to the farthest end below it."""
        return self.tokens + max((child.way for child in self.children), default=0)


@dataclass(frozen=True)
class Branch:
    """What one trial trains by itself: from step `fork` of its parent to its own end.

    Without a parent `fork` is 0. `tokens` is how many it trains.
    """

    trial: str
    parent: str | None
    fork: int
    tokens: int


def grow(trainings: Iterable[Training]) -> tuple[Stage, ...]:
    """The stages of these trials: one tree for each beginning, in an order of its own.

    The same trials give the same trees, in whatever order they come.
    """
    ordered = sorted(trainings, key=lambda t: t.name)
    return tuple(_stage(group, 0) for group in _groups(ordered, 0))


def _groups(trainings: Sequence[Training], after: int) -> list[list[Training]]:
    """The trials apart by their step after step `after`; all have one."""
    groups: list[list[Training]] = []
    for training in trainings:
        for group in groups:
            if group[0].shared_steps(training) > after:
                group.append(training)
                break
        else:
            groups.append([training])
    return groups


def _stage(trainings: Sequence[Training], first: int) -> Stage:
    one = trainings[0]
    last = min(one.shared_steps(training) for training in trainings)
    ends = tuple(t.name for t in trainings if t.schedule.steps == last)
    going = [t for t in trainings if t.schedule.steps > last]
    children = [_stage(group, last) for group in _groups(going, last)]
    return Stage(
        first=first,
        last=last,
        tokens=one.tokens_after(last) - one.tokens_after(first),
        trials=tuple(t.name for t in trainings),
        ends=ends,
        children=tuple(sorted(children, key=lambda c: (-c.way, c.trials))),
    )


def branches(forest: Iterable[Stage]) -> list[Branch]:
    """Who trains what, so that each stage is trained by one trial; longest ways first."""
    found: list[Branch] = []
    for root in forest:
        found += _branch(root, None, 0)
    return sorted(found, key=lambda b: (-b.tokens, b.trial))


def _branch(stage: Stage, parent: str | None, fork: int) -> list[Branch]:
    """The branch that begins with a stage, and those that leave it further down."""
    path = [stage]
    while path[-1].children:
        path.append(path[-1].children[0])
    trial = path[-1].ends[0]
    found = [Branch(trial, parent, fork, sum(part.tokens for part in path))]
    for part in path:
        found += [Branch(end, trial, part.last, 0) for end in part.ends if end != trial]
        for child in part.children[1:]:
            found += _branch(child, trial, part.last)
    return found


def attach(
    new: Training,
    trainings: Sequence[Training],
    known: dict[str, Branch],
    saved: dict[str, set[int]],
) -> Branch:
    """Where a trial that comes later leaves those that are there.

    Args:
        new: the trial.
        trainings: the trials that are there.
        known: their branches, by name.
        saved: the steps after which each of them has, or will have, a checkpoint.

    Returns:
        A branch from the deepest of those checkpoints whose steps it shares.
    """
    best = Branch(new.name, None, 0, new.tokens_after(new.schedule.steps))
    for other in sorted(trainings, key=lambda t: t.name):
        shared = new.shared_steps(other)
        parent: str | None = other.name
        while parent is not None:  # up to the ancestors, who trained its beginning
            branch = known[parent]
            steps = [step for step in saved[parent] if branch.fork < step <= shared]
            if steps and max(steps) > best.fork:
                best = _fork(new, parent, max(steps))
            parent, shared = branch.parent, min(shared, branch.fork)
    return best


def _fork(new: Training, parent: str, step: int) -> Branch:
    tokens = new.tokens_after(new.schedule.steps) - new.tokens_after(step)
    return Branch(new.name, parent, step, tokens)

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
from dataclasses import dataclass, field
from functools import cmp_to_key

from manta.schedule import Schedule
from manta.schedule.sharing import shared_steps
from manta.schedule.steps import Step


@dataclass(frozen=True)
class Training:
    """What a trial trains: equal trainings give equal weights, to the bit.

    Attributes:
        name: the trial's name.
        identity: everything beside the schedule that can change a weight or what is measured.
        schedule: the trial's schedule.
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
        return self.schedule.tokens_after(step)


@dataclass(frozen=True)
class Stage:
    """The steps ``(first, last]``, numbered from 1, that a set of trials train alike.

    Attributes:
        tokens: tokens that the stage consumes.
        ends: the trials whose last step is `last`.
        children: the stages that go on from here.
        count: how many trials train it.
        name: name of the alphabetically first of these trials.
        way: tokens from the begin of this stage to the farthest end below it.
    """

    first: int
    last: int
    tokens: int
    ends: tuple[str, ...]
    children: tuple[Stage, ...]
    count: int
    name: str
    way: int

    def walk(self) -> Iterator[Stage]:
        """This stage and all below it, each before those that go on from it."""
        left = [self]  # trees may be as deep as there are trials
        while left:
            stage = left.pop()
            yield stage
            left.extend(reversed(stage.children))

    @property
    def trials(self) -> tuple[str, ...]:
        """The names of all that train it."""
        return tuple(sorted(name for stage in self.walk() for name in stage.ends))


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

    The same trials give the same trees, in whatever order they come. Costs O(n log n)
    comparisons of two trials.
    """
    groups: dict[tuple[str, Step], list[Training]] = {}
    for training in sorted(trainings, key=lambda t: t.name):
        beginning = (training.identity, training.schedule.step(0))
        groups.setdefault(beginning, []).append(training)
    return tuple(_tree(group) for group in groups.values())


def _tree(trainings: Sequence[Training]) -> Stage:
    """The stages of trials that share at least a step.

    In the order of their updates, as words in a dictionary, each shares most with one of its
    neighbours; so the tree is built from left to right, along its right edge.
    """
    order = sorted(trainings, key=cmp_to_key(_compare))
    edge: list[_Open] = []
    for number, training in enumerate(order):
        shared = training.shared_steps(order[number - 1]) if number else 0
        while edge and edge[-1].last > shared:
            _close(edge, shared)
        if not edge or edge[-1].last < training.schedule.steps:
            edge.append(_Open(training, training.schedule.steps))
        edge[-1].ends.append(training.name)
    while len(edge) > 1:
        _close(edge, edge[-2].last)
    return edge[0].closed(0)


@dataclass
class _Open:
    """A stage up to step `last` that may still get ends and children; `one` of its trials."""

    one: Training
    last: int
    ends: list[str] = field(default_factory=list)
    children: list[Stage] = field(default_factory=list)

    def closed(self, first: int) -> Stage:
        children = sorted(self.children, key=lambda c: (-c.way, c.name))
        tokens = self.one.tokens_after(self.last) - self.one.tokens_after(first)
        return Stage(
            first=first,
            last=self.last,
            tokens=tokens,
            ends=tuple(self.ends),
            children=tuple(children),
            count=len(self.ends) + sum(child.count for child in children),
            name=min((*self.ends[:1], *(child.name for child in children))),
            way=tokens + max((child.way for child in children), default=0),
        )


def _close(edge: list[_Open], shared: int) -> None:
    """Put the last stage below the one that ends at step `shared`, or comes before; make that."""
    stage = edge.pop()
    if not edge or edge[-1].last < shared:
        edge.append(_Open(stage.one, shared))
    edge[-1].children.append(stage.closed(edge[-1].last))


def _compare(a: Training, b: Training) -> int:
    """The order of two trials of one identity: by the first update in which they differ."""
    shared = a.shared_steps(b)
    mine, other = _update(a, shared), _update(b, shared)
    return (mine > other) - (mine < other)


def _update(training: Training, k: int) -> tuple[float, ...]:
    """What tells step `k` apart from another one; nothing where the trial has ended."""
    if k == training.schedule.steps:
        return ()
    step = training.schedule.step(k)
    return step.batch_size, step.lr


def branches(forest: Iterable[Stage]) -> list[Branch]:
    """Who trains what, so that each stage is trained by one trial; longest ways first."""
    found: list[Branch] = []
    left: list[tuple[Stage, str | None, int]] = [(root, None, 0) for root in forest]
    while left:
        stage, parent, fork = left.pop()
        path = [stage]
        while path[-1].children:
            path.append(path[-1].children[0])
        trial = path[-1].ends[0]
        found.append(Branch(trial, parent, fork, sum(part.tokens for part in path)))
        for part in path:
            found += [Branch(end, trial, part.last, 0) for end in part.ends if end != trial]
            left += [(child, trial, part.last) for child in part.children[1:]]
    return sorted(found, key=lambda b: (-b.tokens, b.trial))


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

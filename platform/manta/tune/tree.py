"""The stage tree: steps that trials have in common are trained once.

A *stage* is a maximal stretch of steps in which a set of trials are still the same training. The
trials that share their first steps form a radix tree over their steps. A *branch* is what one trial
trains: from the step at which it leaves its parent to its own end. Of the trials that continue from
a stage, the one with the most tokens left continues the stage's branch (the critical path first).

Stage trees for tuning over schedules are due to Hippo (Shin et al., 2020).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import cmp_to_key
from typing import Any

from manta.schedule import Schedule
from manta.schedule.lengths import Lengths, tokens_alike
from manta.schedule.shares import Mixture, positions_alike
from manta.schedule.sharing import shared_steps


@dataclass(frozen=True)
class Training:
    """What a trial trains: equal trainings give equal weights, to the bit.

    Attributes:
        name: the trial's name.
        identity: digest of all but schedule, mixture and lengths that can change a weight or what
            is measured.
        schedule: the trial's schedule.
        mixture: shares of the sources; None if each sample of the corpus comes once an epoch.
        lengths: lengths of the rows that the model sees; None if they never change.
    """

    name: str
    identity: str
    schedule: Schedule
    mixture: Mixture | None = None
    lengths: Lengths | None = None

    def shared_steps(self, other: Training) -> int:
        """Number of steps, from the first on, that are the same update in both."""
        if self.identity != other.identity:
            return 0
        alike = positions_alike(self.mixture, other.mixture)
        return min(
            shared_steps(self.schedule, other.schedule),
            self._steps_within(alike),
            self._steps_begun_before(tokens_alike(self._lengths, other._lengths)),
        )

    @property
    def _lengths(self) -> Lengths:
        return self.lengths or Lengths(self.schedule.seq_len)

    def _steps_begun_before(self, tokens: float) -> int:
        """Number of steps that begin before so many tokens are consumed."""
        if tokens >= self.schedule.positions * self.schedule.seq_len:
            return self.schedule.steps
        return self.schedule.reaching(int(tokens)) if tokens else 0

    def _steps_within(self, positions: int) -> int:
        """Number of steps that end within the first positions."""
        if positions >= self.schedule.positions:
            return self.schedule.steps
        return self.schedule.reaching((positions + 1) * self.schedule.seq_len) - 1

    def update(self, k: int) -> tuple[object, ...]:
        """What determines step `k`, which the trial has: two trials' steps are equal if it is."""
        step = self.schedule.step(k)
        end = step.first_position + step.batch_size
        stretches = self.mixture.stretches if self.mixture else ()
        begun = tuple(astuple(stretch) for stretch in stretches if stretch.start < end)
        return step.batch_size, step.lr, self._lengths.at(step.tokens), begun

    @property
    def digest(self) -> str:
        """A digest of identity, schedule, mixture and lengths."""
        mixed = tuple(each for each in (self.mixture, self.lengths) if each is not None)
        text = repr((self.identity, self.schedule, *mixed))
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
        children: the stages that continue from this one.
        count: number of trials that train this stage.
        name: name of the alphabetically first of these trials.
        way: tokens from the start of this stage to the farthest end below it.
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
        """This stage and all below it, each before its children."""
        left = [self]  # no recursion, as a tree can be as deep as there are trials
        while left:
            stage = left.pop()
            yield stage
            left.extend(reversed(stage.children))

    @property
    def trials(self) -> tuple[str, ...]:
        """The names of all trials that train this stage."""
        return tuple(sorted(name for stage in self.walk() for name in stage.ends))


@dataclass(frozen=True)
class Branch:
    """What one trial trains by itself: from step `fork` of its parent to its own end.

    Without a parent `fork` is 0. `tokens` is the number of tokens that the trial trains.
    """

    trial: str
    parent: str | None
    fork: int
    tokens: int


def grow(trainings: Iterable[Training]) -> tuple[Stage, ...]:
    """The roots of the stage trees of these trials: one for each first step that occurs.

    The result doesn't depend on the order of `trainings`. Costs O(n log n) comparisons of two
    trials.
    """
    groups: dict[tuple[object, ...], list[Training]] = {}
    for training in sorted(trainings, key=lambda t: t.name):
        beginning = (training.identity, training.schedule.step(0), training.update(0))
        groups.setdefault(beginning, []).append(training)
    return tuple(_tree(group) for group in groups.values())


def _tree(trainings: Sequence[Training]) -> Stage:
    """The stages of trials that share at least a step.

    In lexicographic order of their updates, each trial shares most steps with one of its
    neighbours; so the tree is built from left to right, along its right edge.
    """
    ordered = sorted(trainings, key=cmp_to_key(_compare))
    edge: list[_Open] = []
    for number, training in enumerate(ordered):
        shared = training.shared_steps(ordered[number - 1]) if number else 0
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
    """Take the last stage off the edge, and put it below a stage that ends at step `shared`.

    That stage is made if the edge hasn't got it; if the edge's last one ends later, that is it.
    """
    stage = edge.pop()
    if not edge or edge[-1].last < shared:
        edge.append(_Open(stage.one, shared))
    edge[-1].children.append(stage.closed(edge[-1].last))


def _compare(a: Training, b: Training) -> int:
    """Compare two trials of one identity by the first update in which they differ."""
    shared = a.shared_steps(b)
    mine, other = _update(a, shared), _update(b, shared)
    return (mine > other) - (mine < other)


def _update(training: Training, k: int) -> tuple[Any, ...]:
    """Sort key of step `k`; the empty tuple if the trial has ended before it."""
    return () if k == training.schedule.steps else training.update(k)


def branches(forest: Iterable[Stage]) -> list[Branch]:
    """The branches of all trials, such that one trial trains each stage; most tokens first."""
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
    """The branch of a trial that is added to existing ones.

    Args:
        new: the training of the new trial.
        trainings: the trainings of the existing trials.
        known: branches of the existing trials, by name.
        saved: steps after which each existing trial has, or will have, a checkpoint, by name.

    Returns:
        A branch from the deepest of those checkpoints whose steps it shares.
    """
    best = Branch(new.name, None, 0, new.tokens_after(new.schedule.steps))
    for other in sorted(trainings, key=lambda t: t.name):
        shared = new.shared_steps(other)
        parent: str | None = other.name
        while parent is not None:  # ancestors trained the first steps of `other`
            branch = known[parent]
            steps = [step for step in saved[parent] if branch.fork < step <= shared]
            if steps and max(steps) > best.fork:
                best = _fork(new, parent, max(steps))
            parent, shared = branch.parent, min(shared, branch.fork)
    return best


def _fork(new: Training, parent: str, step: int) -> Branch:
    tokens = new.tokens_after(new.schedule.steps) - new.tokens_after(step)
    return Branch(new.name, parent, step, tokens)

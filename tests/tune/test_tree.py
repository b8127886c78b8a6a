"""The stage tree: its laws, and trees small enough to see."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.config.mixture import MixtureSection
from manta.config.schedule import ScheduleSection
from manta.schedule import Schedule
from manta.schedule.lengths import Lengths
from manta.schedule.shares import Mixture
from manta.tune.tree import Branch, Stage, Training, attach, branches, grow

SEQ = 4


def training(
    name: str,
    identity: str = "",
    horizon: int = 400,
    mixture: Mixture | None = None,
    **keys: object,
) -> Training:
    section = {"horizon": horizon, "lr": 1e-3, "batch": 1, **keys}
    schedule = Schedule.resolve(ScheduleSection.model_validate(section), SEQ)
    return Training(name, identity, schedule, mixture)


def web(*weights: object) -> Mixture:
    """Web beside code: a weight, or weights that are in force from a token count on."""
    ends = [{"until": until} for until in weights[1::2]]
    segments = [
        {"from": weight, **end} for weight, end in zip(weights[::2], [*ends, {}], strict=True)
    ]
    section = {"sources": {"web": {"weight": segments}, "code": {"weight": 1}}}
    sizes = {"web": 50, "code": 50}
    return Mixture.resolve(MixtureSection.model_validate(section), sizes, 400, SEQ)


def test_mixtures_that_begin_alike_share_the_beginning() -> None:
    """A step belongs to the beginning if all of its samples do."""
    fan = [
        training("a", mixture=web(9), batch=3),
        training("b", mixture=web(9, 250, 1), batch=3),
        training("c", mixture=web(9, 250, 1), batch=3),
        training("d", mixture=web(8), batch=3),
        training("e", batch=3),
    ]
    forest = grow(fan)
    assert [stage.trials for stage in forest] == [("a", "b", "c"), ("d",), ("e",)]
    assert (forest[0].last, forest[0].tokens) == (21, 252 // 12 * 12)
    assert branches(forest)[-2:] == [Branch("b", "a", 21, 156), Branch("c", "b", 34, 0)]
    assert fan[0].digest != fan[1].digest == training("x", mixture=web(9, 250, 1), batch=3).digest


def wsd(decay: object, peak: float = 1e-3) -> dict[str, object]:
    return {"name": "wsd", "peak": peak, "warmup": 40, "decay": decay}


FAN = [
    training("a", lr=wsd("10%")),
    training("b", lr=wsd("20%")),
    training("c", lr=wsd("20%", peak=2e-3)),
    training(
        "d", lr=wsd("10%"), batch={"name": "ramp", "from": 1, "to": 2, "start": 360, "over": 8}
    ),
    training("e", lr=wsd("10%"), identity="another seed"),
    training("f", lr=wsd("10%")),
]


def test_lengths_that_begin_alike_share_the_beginning() -> None:
    """A step belongs to the beginning if it begins in it: it has one length."""

    def warmed(name: str, *ends: tuple[int, int]) -> Training:
        return replace(training(name, batch=3), lengths=Lengths(SEQ, ends) if ends else None)

    fan = [warmed("a", (100, 1)), warmed("b", (200, 1)), warmed("c", (100, 1), (250, 2))]
    forest = grow([*fan, warmed("d")])
    assert [stage.trials for stage in forest] == [("a", "b", "c"), ("d",)]
    # Steps of 12 tokens: the ninth begins at 96 tokens.
    assert (forest[0].last, forest[0].tokens) == (9, 108)
    assert len({each.digest for each in fan}) == 3


def test_a_fan() -> None:
    forest = grow(FAN)
    assert [stage.trials for stage in forest] == [("a", "b", "d", "f"), ("c",), ("e",)]
    root = forest[0]
    assert (root.first, root.last, root.tokens, root.ends) == (0, 80, 320, ())
    assert [child.trials for child in root.children] == [("a", "d", "f"), ("b",)]
    assert branches(forest) == [
        Branch("a", None, 0, 400),
        Branch("c", None, 0, 400),
        Branch("e", None, 0, 400),
        Branch("b", "a", 80, 80),
        Branch("d", "a", 92, 32),
        Branch("f", "a", 100, 0),
    ]


def test_many_trials_cost_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each leaves the others at a step of its own: a tree as deep as there are."""
    count, compared = 2000, []
    shared_steps = Training.shared_steps

    def counted(self: Training, other: Training) -> int:
        compared.append(self.name)
        return shared_steps(self, other)

    monkeypatch.setattr(Training, "shared_steps", counted)
    horizon = SEQ * 2 * count
    peaks = [training(f"p{n}", horizon=horizon, lr=1e-3 * (n + 1)) for n in range(count)]
    assert len(grow(peaks)) == count
    assert compared == []
    decays = [
        training(f"d{n}", horizon=horizon, lr=wsd(SEQ * (n + 1)))
        for n in random.Random(0).sample(range(count), count)
    ]
    (root,) = grow(decays)
    assert len(compared) < count * (2 + math.log2(count))
    assert sum(1 for _ in root.walk()) == 2 * count - 1
    assert root.count == len(root.trials) == count
    found = branches([root])
    assert len(found) == count
    assert sum(branch.tokens for branch in found) == sum(stage.tokens for stage in root.walk())


def test_a_trial_that_ends_on_the_way_of_another() -> None:
    short, long = training("short", horizon=200), training("long")
    (root,) = grow([short, long])
    assert (root.last, root.ends) == (50, ("short",))
    assert branches([root]) == [Branch("long", None, 0, 400), Branch("short", "long", 50, 0)]


def test_a_later_trial_is_attached_to_the_deepest_checkpoint_it_shares() -> None:
    a, b = training("a", lr=wsd("10%")), training("b", lr=wsd("20%"))
    known = {branch.trial: branch for branch in branches(grow([a, b]))}
    saved = {"a": {20, 80, 90, 100}, "b": {90, 100}}
    new = training("n", lr=wsd("15%"))  # leaves a at step 85, b at step 80
    assert attach(new, [a, b], known, saved) == Branch("n", "a", 80, 80)
    # What b has of its beginning, a trained; b's own checkpoints come after they part.
    assert attach(new, [b], known, saved) == Branch("n", "a", 80, 80)
    same = training("n", lr=wsd("20%"))
    assert attach(same, [a, b], known, saved) == Branch("n", "b", 100, 0)
    other = training("n", lr=wsd("20%", peak=3e-3))
    assert attach(other, [a, b], known, saved) == Branch("n", None, 0, 400)


lrs = st.one_of(
    st.sampled_from([1e-3, 2e-3]),
    st.builds(wsd, st.sampled_from(["10%", "25%", 90, 93]), st.sampled_from([1e-3, 2e-3])),
)
batches = st.one_of(
    st.integers(1, 2),
    st.builds(
        lambda start, to: {"name": "ramp", "from": 1, "to": to, "start": start, "over": "10%"},
        st.sampled_from(["30%", "50%", 105]),
        st.integers(1, 3),
    ),
)
mixtures = st.none() | st.sampled_from([web(9), web(9, 100, 1), web(9, 150, 1), web(1)])
trials = st.lists(
    st.tuples(st.sampled_from("xy"), st.sampled_from([200, 400]), lrs, batches, mixtures),
    max_size=8,
).map(
    lambda drawn: [
        training(f"t{number}", identity, horizon, mixture, lr=lr, batch=batch)
        for number, (identity, horizon, lr, batch, mixture) in enumerate(drawn)
    ]
)


def of_step(trial: Training, k: int) -> object:
    """The batch and rate of a step, and the shares that each of its samples is drawn by."""
    step = trial.schedule.step(k)
    positions = range(step.first_position, step.first_position + step.batch_size)
    stretches = trial.mixture.stretches if trial.mixture else ()
    shares = [[s.curve for s in stretches if s.start <= position] for position in positions]
    return step, shares


def stages_of(forest: tuple[Stage, ...]) -> list[Stage]:
    return [stage for root in forest for stage in root.walk()]


@given(trials)
def test_each_trial_ends_once(given_trials: list[Training]) -> None:
    ends = [name for stage in stages_of(grow(given_trials)) for name in stage.ends]
    assert sorted(ends) == sorted(t.name for t in given_trials)


@given(trials)
def test_a_path_is_the_whole_trial(given_trials: list[Training]) -> None:
    forest = grow(given_trials)
    for trial in given_trials:
        path = [stage for stage in stages_of(forest) if trial.name in stage.trials]
        assert [s.first for s in path] == [0, *(s.last for s in path[:-1])]
        assert path[-1].last == trial.schedule.steps
        assert sum(s.tokens for s in path) == trial.tokens_after(trial.schedule.steps)


@given(trials)
def test_two_trials_share_a_stage_if_and_only_if_they_agree_on_it(
    given_trials: list[Training],
) -> None:
    stages = stages_of(grow(given_trials))
    for a, b in combinations(given_trials, 2):
        together = [s.last for s in stages if {a.name, b.name} <= set(s.trials)]
        agree = 0
        if a.identity == b.identity:
            steps = range(min(a.schedule.steps, b.schedule.steps))
            differ = (k for k in steps if of_step(a, k) != of_step(b, k))
            agree = next(differ, len(steps))
        assert max(together, default=0) == agree


@given(trials)
def test_sharing_never_costs_and_nothing_shared_saves_nothing(
    given_trials: list[Training],
) -> None:
    stages = stages_of(grow(given_trials))
    apart = sum(t.tokens_after(t.schedule.steps) for t in given_trials)
    once = sum(stage.tokens for stage in stages)
    assert once <= apart
    assert (once == apart) == all(len(stage.trials) == 1 for stage in stages)


@given(trials, st.randoms(use_true_random=False))
def test_the_order_of_trials_does_not_matter(
    given_trials: list[Training], order: random.Random
) -> None:
    shuffled = order.sample(given_trials, len(given_trials))
    assert grow(shuffled) == grow(given_trials)


@given(trials)
def test_branches_train_each_stage_once(given_trials: list[Training]) -> None:
    forest = grow(given_trials)
    found = branches(forest)
    assert sorted(b.trial for b in found) == sorted(t.name for t in given_trials)
    assert sum(b.tokens for b in found) == sum(stage.tokens for stage in stages_of(forest))
    trainings = {t.name: t for t in given_trials}
    known = {b.trial: b for b in found}
    for branch in found:
        own = trainings[branch.trial]
        end = own.schedule.steps
        assert branch.tokens == own.tokens_after(end) - own.tokens_after(branch.fork)
        if branch.parent is None:
            assert branch.fork == 0
        else:
            assert branch.fork <= own.shared_steps(trainings[branch.parent])
            assert known[branch.parent].fork < branch.fork


@given(trials)
def test_attached_one_by_one_nobody_trains_more_than_alone(given_trials: list[Training]) -> None:
    known: dict[str, Branch] = {}
    saved: dict[str, set[int]] = {}
    there: list[Training] = []
    for trial in given_trials:
        branch = attach(trial, there, known, saved)
        assert branch.tokens == trial.tokens_after(trial.schedule.steps) - trial.tokens_after(
            branch.fork
        )
        if branch.parent is not None:
            parent = next(t for t in there if t.name == branch.parent)
            assert branch.fork <= trial.shared_steps(parent)
            assert branch.fork in saved[branch.parent]
        known[trial.name] = branch
        steps = trial.schedule.steps
        saved[trial.name] = {
            step for step in (20, 40, 60, 80, steps) if branch.fork < step <= steps
        }
        there.append(trial)

"""A sweep in every order of events: who trains next, who pauses, and that it always ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from manta.record.sweep_state import SweepState, SweepTrial
from manta.tune.halving import Halving, survivors
from manta.tune.scheduler import MOST_FAILURES, OVER, SweepProgress, room, shares

END = 100


def trial(name: str, parent: str | None = None, fork: int = 0, end: int = END) -> SweepTrial:
    return SweepTrial(
        name=name, parent=parent, fork_step=fork, fork_tokens=fork, end_tokens=end, status="waiting"
    )


def sweep(*trials: SweepTrial, rungs: tuple[int, ...] = ()) -> SweepProgress:
    state = SweepState(name="s", status="running", trials=list(trials))
    progress = Halving(state, lambda t: progress[str(t.parent)].tokens >= t.fork_tokens, rungs)
    return progress


def take(progress: SweepProgress) -> str | None:
    chosen = progress.next()
    if chosen is None:
        return None
    progress.start(chosen.name)
    return chosen.name


def test_the_longest_way_first_and_forks_once_they_can_be_made() -> None:
    progress = sweep(trial("short", end=50), trial("fork", "long", 60), trial("long"))
    assert [take(progress), take(progress), take(progress)] == ["long", "short", None]
    assert not progress.over
    progress["long"].tokens = 60  # its checkpoint there is whole
    assert take(progress) == "fork"
    for name in ("long", "short", "fork"):
        progress.ended(name, "finished", tokens=progress[name].end_tokens)
    assert take(progress) is None
    assert progress.over
    assert progress.trained == 100 + 50 + 40


def test_those_that_train_or_could_are_startable() -> None:
    progress = sweep(trial("short", end=50), trial("fork", "long", 60), trial("long"))
    assert progress.startable == 2
    assert take(progress) == "long"
    assert progress.startable == 2
    progress["long"].tokens = 60
    assert progress.startable == 3
    progress.ended("long", "finished", tokens=END)
    assert progress.startable == 2


def test_a_leg_that_breaks_off_is_tried_again_but_not_for_ever() -> None:
    progress = sweep(trial("a"))
    for attempt in range(MOST_FAILURES):
        assert take(progress) == "a", attempt
        progress.ended("a", "lost", tokens=0)
    assert progress["a"].status == "failed"
    assert take(progress) is None
    assert progress.over


def test_a_step_forward_earns_new_tries() -> None:
    progress = sweep(trial("a"))
    for tokens in range(1, 2 * MOST_FAILURES):
        assert take(progress) == "a"
        progress.ended("a", "failed", tokens=tokens)
    assert progress["a"].status == "waiting"


def test_a_diverged_trial_ends_alone() -> None:
    progress = sweep(trial("a"), trial("b", end=50))
    assert (take(progress), take(progress)) == ("a", "b")
    progress.ended("a", "diverged", tokens=30, reason="NaN")
    progress.ended("b", "finished", tokens=50)
    assert [t.status for t in progress.state.trials] == ["diverged", "finished"]
    assert progress.over


def test_who_shares_a_beginning_shares_its_end() -> None:
    fan = [trial("a"), trial("b", "a", 60), trial("c", "b", 80), trial("d", "a", 20)]
    progress = sweep(*fan)
    take(progress)
    progress.ended("a", "diverged", tokens=30, reason="NaN")
    assert take(progress) == "d"
    progress.ended("d", "finished", tokens=END)
    assert take(progress) is None
    progress.settle()
    assert [t.status for t in progress.state.trials] == [
        "diverged",
        "diverged",
        "diverged",
        "finished",
    ]
    assert progress["c"].reason == "diverged with a, which trains its first steps"


def test_what_failed_is_tried_again_by_the_same_command() -> None:
    progress = sweep(trial("a"), trial("b", "a", 60))
    for _ in range(MOST_FAILURES):
        take(progress)
        progress.ended("a", "failed", tokens=0, reason="no corpus")
    progress.settle()
    assert {t.status for t in progress.state.trials} == {"failed"}
    again = sweep(*progress.state.trials)
    assert take(again) == "a"
    assert again["b"].status == "waiting"


def test_a_killed_driver_leaves_nothing_running() -> None:
    progress = sweep(trial("a"))
    take(progress)
    again = SweepProgress(SweepState.model_validate_json(progress.state.model_dump_json()), bool)
    assert take(again) == "a"


def test_halving_promotes_late() -> None:
    progress = sweep(*(trial(name) for name in "abcdef"), rungs=(10,))
    assert [take(progress) for _ in range(4)] == list("abcd")
    assert not progress.scored("a", 10, 3.0)  # the first to come can't be in the best third
    progress.ended("a", "paused", tokens=11)
    assert not progress.scored("b", 10, 2.0)
    progress.ended("b", "paused", tokens=11)
    assert not progress.scored("c", 10, 5.0)  # b is, by now
    progress.ended("c", "paused", tokens=11)
    assert (take(progress), progress["b"].passed) == ("b", [10])
    assert progress["a"].status == "paused"


def test_trials_that_are_one_at_a_rung_are_one_contender() -> None:
    fan = [trial("p"), trial("q", "p", 50), trial("r", "p", 5), trial("s")]
    progress = sweep(*fan, rungs=(10,))
    assert [take(progress), take(progress)] == ["p", "s"]
    assert not progress.scored("p", 10, 1.0)
    progress.ended("p", "paused", tokens=60)  # it ran on while it was being told
    assert take(progress) == "r", "its fork lies before the rung"
    assert not progress.scored("s", 10, 2.0)
    progress.ended("s", "paused", tokens=10)
    assert not progress.scored("r", 10, 3.0)
    progress.ended("r", "paused", tokens=10)
    # Three contenders, the best of them goes on, and q with it, which shares its score.
    assert {take(progress), take(progress)} == {"p", "q"}
    assert take(progress) is None


def test_who_waits_for_a_paused_trial_is_paused_with_it() -> None:
    fan = [trial("p"), trial("q", "p", 50), trial("r", "q", 80), trial("s"), trial("t", "p", 9)]
    progress = sweep(*fan, rungs=(10,))
    for name, score in (("s", 1.0), ("p", 2.0)):
        progress.start(name)
        progress.scored(name, 10, score)
        progress.ended(name, "paused", tokens=10, value=score)
    assert take(progress) == "t"
    progress.ended("t", "diverged", tokens=9, reason="NaN")
    assert take(progress) == "s"
    progress.ended("s", "finished", tokens=END, value=0.5)
    assert take(progress) is None
    assert progress.over
    progress.settle()
    assert progress["p"].status == "paused"
    for name in ("q", "r"):
        assert (progress[name].status, progress[name].tokens, progress[name].value) == (
            "paused",
            10,
            2.0,
        )
        assert progress[name].reason == "paused with p, which trains its first steps"
    assert progress.trained == 10 + END
    # Taken up again they wait as before: the one they wait for may be promoted.
    settled = progress.state.model_dump()
    again = sweep(*progress.state.trials, rungs=(10,))
    assert [(again[name].status, again[name].value) for name in "qr"] == [("waiting", None)] * 2
    assert take(again) is None
    again.settle()
    assert again.state.model_dump() == settled


def test_who_can_not_go_on_from_a_finished_trial_has_failed() -> None:
    state = SweepState(name="s", status="running", trials=[trial("a"), trial("b", "a", 60)])
    progress = Halving(state, lambda t: False, ())
    take(progress)
    progress.ended("a", "finished", tokens=END, value=1.0)
    assert take(progress) is None
    progress.settle()
    assert (progress["b"].status, progress["b"].value) == ("failed", None)
    assert progress["b"].reason.startswith("a has no whole checkpoint after step 60")


@given(
    st.dictionaries(st.text(min_size=1, max_size=2), st.floats(-5, 5), max_size=12),
    st.floats(1.1, 5),
    st.sampled_from(["min", "max"]),
)
def test_survivors_are_the_best(scores: dict[str, float], factor: float, mode: str) -> None:
    some = survivors(scores, factor, mode, complete=False)  # type: ignore[arg-type]
    more = survivors(scores, factor, mode, complete=True)  # type: ignore[arg-type]
    assert some <= more
    assert len(some) <= len(scores) / factor <= len(more) or not scores
    sign = 1 if mode == "min" else -1
    out = [sign * scores[name] for name in scores if name not in more]
    assert all(sign * scores[name] <= min(out) for name in more if out)


@st.composite
def forests(draw: st.DrawFn) -> list[SweepTrial]:
    """Trials that fork from ones before them, later than those themselves forked."""
    found: list[SweepTrial] = []
    for number in range(draw(st.integers(1, 8))):
        parent = draw(st.none() | st.sampled_from(found)) if found else None
        fork = draw(st.integers(min(parent.fork_tokens + 1, END), END)) if parent else 0
        found.append(trial(f"t{number}", parent.name if parent else None, fork))
    return found


@given(forests(), st.sampled_from([(), (20,), (10, 30, 90)]), st.data())
def test_every_sweep_ends_and_nothing_is_trained_twice(
    trials: list[SweepTrial], rungs: tuple[int, ...], data: st.DataObject
) -> None:
    """Legs advance, break off, diverge or are killed with their driver in any order."""
    progress = sweep(*trials, rungs=rungs)
    trained = dict.fromkeys((t.name for t in trials), 0)
    most = data.draw(st.integers(1, 4), "concurrent")
    for _ in range(10_000):
        while len(progress.running) < most and take(progress):
            pass
        if progress.over:
            break
        leg = data.draw(st.sampled_from(progress.running), "leg")
        event = data.draw(st.sampled_from(["on"] * 8 + ["lost", "diverged", "killed"]), "event")
        if event == "killed":
            text = progress.state.model_dump_json()
            progress = sweep(*SweepState.model_validate_json(text).trials, rungs=rungs)
            continue
        if event != "on":
            progress.ended(leg.name, event, tokens=leg.tokens)  # type: ignore[arg-type]
            continue
        stands = max(leg.tokens, leg.fork_tokens)
        assert stands < leg.end_tokens or leg.fork_tokens == leg.end_tokens
        to_come = [r for r in rungs if r > leg.fork_tokens and r not in leg.passed]
        goal = next((r for r in to_come if r > stands), leg.end_tokens)
        trained[leg.name] += goal - stands
        leg.tokens = goal
        if goal in to_come and not progress.scored(leg.name, goal, data.draw(st.floats(0, 1))):
            progress.ended(leg.name, "paused", tokens=goal)
        elif goal == leg.end_tokens:
            progress.ended(leg.name, "finished", tokens=goal)
    assert progress.over
    assert sum(trained.values()) == progress.trained
    statuses = {t.status for t in progress.state.trials}
    if not statuses & {"failed", "diverged"}:
        assert "finished" in statuses
        if not rungs:
            assert statuses == {"finished"}


def test_a_trial_that_is_asked_to_stop_trains_what_others_fork_from() -> None:
    fan = [trial("p"), trial("q", "p", 50), trial("r", "q", 80), trial("s"), trial("t", "p", 70)]
    progress = sweep(*fan)
    assert (take(progress), take(progress)) == ("p", "s")
    for name in ("s", "p", "q", "t"):
        progress.ask_to_stop(name, "by me")
    assert progress["t"].status == "stopped", "nobody waits for it"
    assert progress.has_to_stop("s")
    assert not progress.has_to_stop("p"), "q continues from it, for r"
    progress.ended("s", "interrupted", tokens=20, value=1.0)
    assert (progress["s"].status, progress["s"].reason, progress["s"].value) == (
        "stopped",
        "by me",
        1.0,
    )
    progress["p"].tokens = 50
    assert progress.has_to_stop("p")
    progress.ended("p", "interrupted", tokens=51)
    assert progress["p"].status == "stopped"
    assert take(progress) == "q"
    progress["q"].tokens = 80
    progress.ended("q", "finished", tokens=END)
    assert progress["q"].status == "finished", "it was at its end before it heard"
    assert take(progress) == "r"
    progress.ended("r", "finished", tokens=END)
    assert take(progress) is None
    assert progress.over


def test_a_trial_that_is_stopped_at_a_rung_leaves_its_place_there() -> None:
    progress = sweep(*(trial(name) for name in "abc"), rungs=(10,))
    for name, score in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        take(progress)
        if name == "c":
            progress.ask_to_stop("a", "by me")
        assert not progress.scored(name, 10, score)
        progress.ended(name, "paused", tokens=10, value=score)
    assert [take(progress), take(progress)] == ["b", None]
    assert progress["a"].status == "stopped"


@given(forests(), st.data())
def test_whoever_is_stopped_the_others_reach_their_ends(
    trials: list[SweepTrial], data: st.DataObject
) -> None:
    progress = sweep(*trials)
    asked = data.draw(st.sets(st.sampled_from([t.name for t in trials])), "asked")
    left = sorted(asked)
    for _ in range(1000):
        while take(progress):
            pass
        if left and data.draw(st.booleans(), "ask"):
            if progress[name := left.pop()].status not in OVER:
                progress.ask_to_stop(name, "by me")
            continue
        if progress.over:
            break
        leg = data.draw(st.sampled_from(progress.running), "leg")
        stands = max(leg.tokens, leg.fork_tokens)
        if progress.has_to_stop(leg.name):
            progress.ended(leg.name, "interrupted", tokens=stands)
        elif stands == leg.end_tokens:
            progress.ended(leg.name, "finished", tokens=stands)
        else:
            forks = [t.fork_tokens for t in trials if t.parent == leg.name]
            leg.tokens = min(t for t in [*forks, END] if t > stands)
    assert progress.over
    for one in progress.state.trials:
        assert one.status == "finished" or (one.status == "stopped" and one.name in asked)


def test_every_running_trial_has_its_share() -> None:
    assert shares({"a": 5, "b": 9}, capacity=5, smallest=1, largest=4) == {"a": 2, "b": 3}
    assert shares({"a": 5}, capacity=8, smallest=1, largest=4) == {"a": 4}
    assert shares({"a": 5, "b": 9}, capacity=1, smallest=1, largest=4) == {"a": 1, "b": 1}
    assert shares({}, capacity=3, smallest=1, largest=4) == {}


@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 6), st.integers(1, 8))
def test_shares_fit(capacity: int, smallest: int, concurrent: int, extra: int) -> None:
    legs = {f"t{n}": n for n in range(room(capacity, smallest, concurrent))}
    found = shares(legs, capacity, smallest, smallest + extra)
    assert all(smallest <= count <= smallest + extra for count in found.values())
    assert sum(found.values()) <= max(capacity, smallest)
    if sum(found.values()) < capacity:
        assert all(count == smallest + extra for count in found.values())

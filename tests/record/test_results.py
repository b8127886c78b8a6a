"""What a run came to, in flat figures, from its record and its history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from manta.config import RunConfig
from manta.record.results import run_results
from manta.record.run_state import Fork, RunState, WandbState


def state(fork: Fork | None = None, name: str = "t", **totals: float) -> RunState:
    facts: dict[str, Any] = dict.fromkeys(
        ("created", "updated", "manta_version", "corpus", "corpus_fingerprint"), ""
    )
    wandb = WandbState(id="x")
    return RunState(
        name=name, total_steps=4, total_tokens=4, fork=fork, wandb=wandb, totals=totals, **facts
    )


# 40 tokens in 4 steps at 1 token/s of each of 2 workers, who hold 4 devices each.
ROWS: list[dict[str, Any]] = [
    {"step": step, "tokens": step * 10, "loss": 1.0, "world_size": 2, "tokens_per_s": 2.0}
    for step in range(1, 5)
]
EVALUATIONS = [
    {"step": step, "tokens": step * 10, "val_loss": value}
    for step, value in [(1, 4.0), (2, 2.0), (4, 3.0)]
]
SECTIONS: dict[str, Any] = {
    "scaling": {"resources_per_worker": {"GPU": 4}},
    "cost": {"per_device_hour": 36.0},
}


def test_a_run_by_itself(make_config: Callable[..., RunConfig]) -> None:
    recorded = state(device_seconds=360.0, cost=3.6)
    found = run_results(recorded, make_config(**SECTIONS), [*ROWS, *EVALUATIONS])
    assert (found.metric, found.best_metric) == (3.0, 2.0)
    assert (found.tokens, found.own_tokens) == (40, 40)
    assert found.compute_hours == found.own_compute_hours == pytest.approx(20 * 8 / 3600)
    assert (found.device_hours, found.cost) == (0.1, 3.6), "as recorded, with starts and all"
    assert found.path == ("t@40",)


def test_a_fork_of_a_fork_counts_its_own_apart(make_config: Callable[..., RunConfig]) -> None:
    fork = Fork(run="b", step=3, tokens=30, before=[Fork(run="a", step=1, tokens=10)])
    found = run_results(state(fork), make_config(**SECTIONS), ROWS, "loss")
    assert (found.tokens, found.own_tokens) == (40, 10)
    assert found.compute_hours == pytest.approx(20 * 8 / 3600)
    assert found.own_compute_hours == pytest.approx(5 * 8 / 3600)
    assert found.path == ("a@10", "b@30", "t@40")


def test_the_best_may_be_the_largest(make_config: Callable[..., RunConfig]) -> None:
    assert run_results(state(), make_config(), EVALUATIONS, mode="max").best_metric == 4.0


def test_what_is_not_known_is_left_out(make_config: Callable[..., RunConfig]) -> None:
    found = run_results(state(), make_config(), [])
    assert found.as_dict() == {"tokens": 0, "own_tokens": 0, "device_hours": 0, "path": ["t@0"]}

"""`train.reproducible: any_world_size`: weights and losses are the same to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_runs import Fault, engine_of, ledger, outcome, train

from manta.config.errors import ConfigError
from manta.elastic.checks.preflight import Checked
from manta.parallel.ranks import Ranks
from manta.train.device_kind import device_kind, warn_of_unlike

Build = Callable[..., Checked]
EXACT = {
    "train.reproducible": "any_world_size",
    "train.micro_batch": 3,
    "checkpoint.every": 16 * 7 * 4,
    "eval.every": 16 * 7 * 6,
    "data.document_mask": True,
    "model.sizes.attention_dropout": 0.1,
}


@pytest.fixture(scope="module")
def alone(checked_module: Build) -> tuple[Any, ...]:
    """What one rank gives."""
    run = checked_module({**EXACT, "run.name": "alone"})
    return outcome(run, train(run))


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same_weights(checked, alone, ranks) -> None:
    run = checked(EXACT)
    assert outcome(run, train(run, ranks)) == alone


def test_without_it_weights_differ_by_rounding(checked, alone) -> None:
    """What the other tests compare can differ: the same run without the key."""
    one, two = (
        checked({**EXACT, "train.reproducible": None, "run.name": name}) for name in ("one", "two")
    )
    assert outcome(one, train(one))[0] != outcome(two, train(two, 2))[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"train.precision": "bf16", "train.activation_checkpointing": True},
        {"train.precision": "bf16", "train.param_dtype": "bf16", "train.clip_norm": 0.1},
        {"schedule.batch": 2, "train.micro_batch": 1, "schedule.horizon": 16 * 2 * 12},
    ],
    ids=["bf16", "bf16 weights", "a rank without rows"],
)
def test_precisions_and_layouts(checked, changes) -> None:
    one, three = (checked({**EXACT, **changes, "run.name": name}) for name in ("one", "three"))
    assert outcome(three, train(three, 3)) == outcome(one, train(one))


def test_killed_and_resumed_at_other_sizes(checked, alone) -> None:
    run = checked({**EXACT, "checkpoint.every": 16 * 7 * 2})
    rows = train(run, 3, die_after=5)
    rows = train(run, 1, die_after=9, attempt=2)
    rows = train(run, 2, attempt=3)
    assert outcome(run, rows) == alone


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_sharded_model(checked, precision) -> None:
    changes = {
        **EXACT,
        "parallel.shard": True,
        "train.precision": precision,
        "model.sizes.hidden_size": 96,
        "model.sizes.intermediate_size": 96,
        "scaling": {"min": 2, "max": 3},
    }
    # One rank alone doesn't shard, and rounds other parts to bf16 than several do.
    ranks = [2, 3, 1] if precision == "no" else [2, 3]
    runs = {count: checked({**changes, "run.name": f"of-{count}"}) for count in ranks}
    found = [outcome(run, train(run, count)) for count, run in runs.items()]
    assert found[1:] == found[:-1]


def test_parts_that_a_cpu_rounds_by_their_ends_are_refused(checked) -> None:
    run = checked({**EXACT, "parallel.shard": True, "scaling": {"min": 2, "max": 3}})
    with pytest.raises(ConfigError, match=r"3 workers would have 11 elements each of .*norm"):
        engine_of(run)


@pytest.mark.parametrize("factor", [float("nan"), 1e9], ids=["nan", "beyond the exact sums"])
def test_a_bad_step_is_left_out_alike(checked, factor) -> None:
    changes = {**EXACT, "guards": {"nonfinite": "skip", "spike": "skip", "window": 8}}
    one, two = (checked({**changes, "run.name": name}) for name in ("one", "two"))
    fault = Fault((3,), factor)
    found = outcome(two, train(two, 2, fault=fault))
    assert found == outcome(one, train(one, fault=fault))
    skipped = [row["step"] for row in ledger(two) if row["skipped"]]
    assert skipped == [3]


def test_ranks_on_unlike_devices_are_told(caplog) -> None:
    class Two(Ranks):
        """As the second rank's name arrives."""

        def named(self, name: str) -> list[str]:
            return [name, "another processor"]

    ranks = Two(torch.device("cpu"))
    warn_of_unlike(ranks)
    assert "rank 1 another processor" in caplog.text
    assert device_kind(ranks.device).endswith(torch.backends.cpu.get_cpu_capability())
    caplog.clear()
    warn_of_unlike(Ranks(torch.device("cpu")))
    assert not caplog.text

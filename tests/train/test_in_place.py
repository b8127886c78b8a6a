"""Groups that change while their processes, models and optimizers stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from changing_groups import Group, train_in_groups
from plain_runs import losses, proof, train

from manta.elastic.checks.preflight import Checked
from manta.elastic.worker.train_function import prepared_engine
from manta.model import hf_config
from manta.state.checkpoint_files import newest
from manta.state.weights_digest import OPTIMIZER, digest_of
from manta.storage.run_folder import CHECKPOINTS
from manta.stream.plan import first_steps
from manta.train.engine import Engine
from manta.train.group_end import leave_group

Build = Callable[..., Checked]
SOME = {"checkpoint.every": 16 * 7 * 4, "eval.every": 16 * 7 * 3, "checkpoint.keep": 9}
# A rank is lost, the first rank is lost while another comes in its place, a rank leaves that was
# asked to, one comes; and one is lost between an update and its row, one in an evaluation.
GROUPS = [
    Group((0, 1, 2), dies=2, step=3),
    Group((0, 1), dies=0, step=5),
    Group((2, 1), dies=2, step=6, point="row"),
    Group((0, 1), step=7),
    Group((1,), step=8),
    Group((1, 0), dies=0, step=9, point="evaluation"),
    Group((1, 2)),
]


def weights(run: Checked) -> tuple[str, str]:
    checkpoint = newest(run.run_dir / CHECKPOINTS)
    return digest_of(checkpoint), digest_of(checkpoint, OPTIMIZER)


def starts(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["source"], row["resumed"]) for row in rows if "source" in row]


def test_a_compiled_model_is_not_compiled_again(checked: Build) -> None:
    run = checked({"train.compile": True, "train.precision": "bf16"})
    rows = train_in_groups(run, [Group((0, 1), dies=0, step=3), Group((1, 2))])
    assert starts(rows) == [("start", 0), ("survivors", 2)]

    def graphs(name: str) -> int:
        return int((run.run_dir / f"graphs-{name}").read_text())

    assert graphs("0") == graphs("1") > 0, "the survivor has the graphs of who died"
    assert graphs("before-2") == graphs("2") > 0, "a spare has compiled before it joins"


def test_no_step_is_trained_again(checked: Build) -> None:
    changes = {"train.precision": "bf16", "train.param_dtype": "bf16"}
    run, alone = (checked({**SOME, **changes, "run.name": name}) for name in ("run", "alone"))
    rows = train_in_groups(run, GROUPS)
    assert starts(rows) == [("start", 0), *(("survivors", step) for step in (2, 4, 6, 7, 8, 9))]
    told = [row["step"] for row in rows if "loss" in row]
    assert told == sorted(set(told)), "each row is told once"
    undisturbed = train(alone)
    assert losses(rows) == pytest.approx(losses(undisturbed), rel=1e-3)
    assert proof(run) == proof(alone)
    held_out = [row["step"] for row in rows if "val_loss" in row]
    assert held_out == [0, 3, 6, 9, 12]


def test_weights_are_the_same_to_the_bit(checked: Build) -> None:
    exact = {**SOME, "train.reproducible": "any_world_size", "train.micro_batch": 3}
    run, alone = (checked({**exact, "run.name": name}) for name in ("run", "alone"))
    rows = train_in_groups(run, GROUPS)
    assert losses(rows) == losses(train(alone))
    assert weights(run) == weights(alone)
    assert proof(run) == proof(alone)


def test_a_spare_computes_in_the_precision_of_the_run(checked: Build) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # as other tests have left it
    run = checked({"train.precision": "bf16"})
    batch = next(first_steps(run.corpus, run.schedule))
    resolved = hf_config.resolve(run.config, run.manifest.vocabulary)
    started = Engine(run.config, resolved)
    expected, _ = started.measure(batch.samples)
    leave_group(started)
    spare = prepared_engine(run)
    spare.rejoin()
    spare.lay()
    spare.initialise()
    found, _ = spare.measure(batch.samples)
    leave_group(spare)
    assert found.tolist() == expected.tolist()

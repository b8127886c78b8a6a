"""`manta fork`: a run goes on from another's checkpoint with changed keys, and says of which."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_config import STEP, run_config
from whole_runs import train_whole

from manta.config import ConfigError, RunConfig, load
from manta.config.errors import RunError
from manta.elastic.checks.fork_run import fork_run
from manta.elastic.checks.preflight import check
from manta.elastic.checks.verifying import verify_run
from manta.elastic.checks.warm_start import run_at_step
from manta.record.run_state import read_fork, read_state
from manta.schedule import Schedule

STEPS, FORKED = 12, 6
BATCH = [{"tokens": "50%", "from": 8}, {"from": 4}]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, make_corpus: Any) -> Path:
    """A finished run with a checkpoint in the middle of its schedule."""
    folder = tmp_path_factory.mktemp("forks")
    make_corpus(folder / "corpus", {"train": [[5, 9, 30] * 20, [17] * 60]}, vocab_size=61)
    config = run_config(
        folder / "runs",
        folder / "corpus",
        run={"name": "base"},
        schedule={
            "horizon": STEPS * STEP,
            "lr": {"name": "wsd", "peak": 1e-2, "warmup": STEP, "decay": "25%"},
        },
        train={"seq_len_warmup": [{"until": "75%", "length": 8}]},
        checkpoint={"at": [FORKED * STEP], "keep": 1},
        wandb={"mode": "disabled"},
    )
    train_whole(check(RunConfig.model_validate(config)))
    return folder / "runs" / "base"


def rows(run: Path) -> list[tuple[int, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [(row["step"], row["loss"]) for row in found if "loss" in row]


def trained(child: Path) -> list[str]:
    return train_whole(check(load(child / "config.yaml", RunConfig)))


def test_it_goes_on_as_the_parent_did_if_nothing_that_counts_is_changed(
    parent: Path,
) -> None:
    child = fork_run(parent, FORKED, "same", ["log.every=0", "train.micro_batch=1"])
    trained(child)
    assert dict(rows(child)) == pytest.approx(dict(rows(parent)), rel=1e-5)
    assert rows(child)[:FORKED] == rows(parent)[:FORKED]


def test_changed_keys_hold_from_the_fork_on_and_are_on_record(parent: Path) -> None:
    before = rows(parent)
    child = fork_run(
        parent, FORKED, "other", ["schedule.lr=3e-3", "train.clip_norm=0.5", "wandb.tags=[x]"]
    )
    events = trained(child)
    assert rows(child)[:FORKED] == before[:FORKED]
    assert rows(child)[FORKED + 1 :] != before[FORKED + 1 :]
    assert rows(parent) == before, "the parent is as it was"
    fork = read_fork(child)
    assert fork is not None
    assert (fork.run, fork.step, fork.tokens) == ("base", FORKED, FORKED * STEP)
    assert any(event.startswith("forked from base at step 6: ") for event in events)
    assert "train.clip_norm: 1.0 → 0.5" in fork.changes
    assert verify_run(child).consumed.steps == STEPS
    assert read_state(child).fork == fork
    config = load(child / "config.yaml", RunConfig)
    [past] = config.schedule.history
    assert (past.until, past.horizon) == (FORKED * STEP, STEPS * STEP)
    assert past.lr == load(parent / "config.yaml", RunConfig).schedule.lr


def test_a_decay_begins_where_it_is_asked_for(parent: Path) -> None:
    """The steps of the fork are those of a run that knew from the start when it would decay."""
    child = fork_run(
        parent, FORKED, "decayed", ["schedule.lr.decay=now", f"schedule.horizon={8 * STEP}"]
    )
    config = load(child / "config.yaml", RunConfig)
    lr = config.schedule.lr.model_copy(update={"decay": 2 * STEP})
    known = config.schedule.model_copy(update={"history": [], "lr": lr})
    one, other = (Schedule.resolve(each, 16) for each in (config.schedule, known))
    assert one.lr_segments == other.lr_segments
    assert one.lr_segments[-1].start == FORKED * STEP
    [shorter] = config.train.seq_len_warmup
    assert shorter.until == STEPS * STEP * 3 // 4, "lengths change where the parent's would have"
    with_a_number = ["schedule.lr=1e-3", "schedule.lr.decay=now"]
    with pytest.raises(ConfigError, match=r"schedule\.lr"):
        fork_run(parent, FORKED, "refused", with_a_number)


def test_a_fork_of_a_fork_keeps_its_lineage(parent: Path) -> None:
    first = fork_run(parent, FORKED, "first", ["optimizer.weight_decay=0"])
    trained(first)
    ramp = "{name: ramp, from: 7, to: 14, start: 80%, over: 10%}"
    second = fork_run(
        first, None, "second", [f"schedule.horizon={20 * STEP}", f"schedule.batch={ramp}"]
    )
    trained(second)
    fork = read_fork(second)
    assert fork is not None
    assert [(one.run, one.step) for one in [*fork.before, fork]] == [("base", 6), ("first", 12)]
    assert verify_run(second).consumed.steps == rows(second)[-1][0] > 16
    third = fork_run(second, None, "third", [f"schedule.horizon={30 * STEP}"])
    trained(third)
    assert rows(third)[: len(rows(second))] == rows(second), "shares are of the horizon of then"
    assert verify_run(third).consumed.tokens >= 30 * STEP


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["run.seed=9"], r"run\.seed: 3 → 9\n.*`manta export`"),
        (["optimizer.type=lion"], r"optimizer\.type: adamw → lion"),
        (
            [f"schedule.horizon={FORKED * STEP}", "schedule.lr.decay=now"],
            r"decay=now: .*base has \d+ tokens at step 6",
        ),
        (["train.seq_len=32"], r"train\.seq_len: \d+ → 32"),
        (["model.sizes.n_layer=3"], r"model\.sizes\.n_layer: .* → 3"),
        (
            [f"schedule.horizon={FORKED * STEP}"],
            r"schedule\.horizon: .*base has \d+ tokens at step 6",
        ),
        (["schedule.batch=2", "schedule.history=[]"], None),
        (["train.clip=1"], r"train\.clip"),
    ],
)
def test_what_a_fork_cannot_change_is_refused(
    parent: Path, overrides: list[str], said: str | None
) -> None:
    names = {path.name for path in parent.parent.iterdir()}
    if said is None:  # another batch size holds from the fork on
        assert fork_run(parent, FORKED, "batch", overrides).exists()
        return
    with pytest.raises(ConfigError, match=re.compile(said, re.DOTALL)):
        fork_run(parent, FORKED, "refused", overrides)
    assert {path.name for path in parent.parent.iterdir()} == names, "something was left"


def test_another_corpus_is_refused(parent: Path, tmp_path: Path, make_corpus: Any) -> None:
    make_corpus(tmp_path / "other", {"train": [[5, 8] * 60]}, vocab_size=61)
    with pytest.raises(ConfigError, match=r"corpus: .*fingerprint.*model\.pretrained"):
        fork_run(parent, FORKED, "refused", [f"corpus={tmp_path / 'other'}"])


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(parent: Path) -> None:
    with pytest.raises(RunError, match=r"step-0+5: .*there are checkpoints of steps 6, 12"):
        fork_run(parent, 5, "refused")


def test_a_name_that_is_taken_is_refused(parent: Path) -> None:
    with pytest.raises(RunError, match="there is a run of this name"):
        fork_run(parent, FORKED, "base")


def test_only_the_config_of_its_folder_goes_on(parent: Path) -> None:
    child = fork_run(parent, FORKED, "mine", ["optimizer.eps=1e-7"])
    given = load(child / "config.yaml", RunConfig, ["optimizer.eps=1e-6"])
    with pytest.raises(RunError, match=r"forked from base with the config .*config\.yaml"):
        check(given).tracker(console=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/base@12", ("runs/base", 12)),
        ("runs/base", ("runs/base", None)),
        ("s3://user@host/runs/base", ("s3://user@host/runs/base", None)),
        ("s3://user@host/runs/base@7", ("s3://user@host/runs/base", 7)),
    ],
)
def test_a_run_and_a_step(text: str, expected: tuple[str, int | None]) -> None:
    assert run_at_step(text) == expected


def test_a_step_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="write RUN@STEP"):
        run_at_step("runs/base@last")

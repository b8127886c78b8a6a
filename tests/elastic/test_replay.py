"""`manta replay` and `manta verify --weights`: what was trained is what training it again gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_config import STEP, run_config
from typer.testing import CliRunner
from whole_runs import train_whole

from manta.cli import app
from manta.config import ConfigError, RunConfig, load
from manta.config.errors import RunError
from manta.elastic.checks.fork_run import fork_run
from manta.elastic.checks.preflight import check
from manta.elastic.checks.replay import Replay, compare, plan_replay
from manta.elastic.checks.same_weights import compare_weights
from manta.schedule import Schedule

STEPS, KEPT = 12, (4, 8)


def config(folder: Path, name: str, **train: Any) -> RunConfig:
    return RunConfig.model_validate(
        run_config(
            folder / "runs",
            folder / "corpus",
            run={"name": name},
            schedule={
                "horizon": STEPS * STEP,
                "lr": {"name": "wsd", "peak": 1e-2, "warmup": STEP, "decay": "50%"},
                "batch": [{"tokens": "50%", "from": 8}, {"from": 4}],
            },
            train={
                "reproducible": "any_world_size",
                "seq_len_warmup": [{"until": "60%", "length": 8}],
                **train,
            },
            checkpoint={"at": [step * STEP for step in KEPT], "keep": 1},
            eval={"every": 3 * STEP, "tokens": 64},
            wandb={"mode": "disabled"},
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_corpus: Any) -> Path:
    made = tmp_path_factory.mktemp("replays")
    splits = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 64]}
    make_corpus(made / "corpus", splits, vocab_size=61)
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A finished run with checkpoints on the way, of three micro-batches a step."""
    train_whole(check(config(folder, "base", micro_batch=3)))
    return folder / "runs" / "base"


def steps_of(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())


def replayed(run: Path, first: int, last: int) -> Replay:
    """A stretch that was trained again, in this process."""
    planned = plan_replay(run, first, last)
    planned.begin()
    train_whole(check(planned.config))
    return planned


def test_a_stretch_from_any_checkpoint_to_any_is_the_same(run: Path) -> None:
    a, b, *_, end = steps_of(run)
    for first, last in ((0, a), (a, b), (b, end)):
        planned = replayed(run, first, last)
        lines = compare(planned)
        assert lines[0] == f"steps {first + 1:,} to {last:,}: the same to the bit"
        assert f"  {last - first:,} steps of the same samples" in lines[1]
        assert re.fullmatch(r"  weights    sha256 [0-9a-f]{64}", lines[2])
        planned.remove()
        assert not planned.place.exists()


def test_the_schedule_of_a_replay_is_the_runs(run: Path) -> None:
    for last in steps_of(run):
        replay = plan_replay(run, 0, last)
        mine, whole = (
            Schedule.resolve(c.schedule, c.train.seq_len)
            for c in (replay.config, config(run.parents[1], "base", micro_batch=3))
        )
        assert mine.steps == last
        assert [mine.step(k) for k in range(last)] == [whole.step(k) for k in range(last)]


def test_a_replay_of_a_fork_follows_its_history(run: Path) -> None:
    a = steps_of(run)[0]
    child = fork_run(run, a, "changed", ["schedule.lr=3e-3"])
    train_whole(check(load(child / "config.yaml", RunConfig)))
    assert a in steps_of(child)
    for first, last in ((a, steps_of(child)[-1]), (0, a)):
        planned = replayed(child, first, last)
        assert compare(planned)[0].endswith("the same to the bit")
        planned.remove()


def test_the_first_step_that_differs_is_named(run: Path) -> None:
    a, b, *_ = steps_of(run)
    planned = replayed(run, a, b)
    lines = (planned.place / "metrics.jsonl").read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    row = next(row for row in changed if row["step"] == a + 2 and "loss" in row)
    before, row["loss"] = row["loss"], row["loss"] * (1 + 1e-12)
    (planned.place / "metrics.jsonl").write_text(
        "".join(json.dumps(each) + "\n" for each in changed)
    )
    (planned.place / "run.json").unlink()  # its seal would say that the rows were changed
    message = f"step {a + 2} is the first whose metrics differ: loss {before} there"
    with pytest.raises(RunError, match=re.escape(message)):
        compare(planned)
    planned.remove()


@pytest.mark.parametrize(
    ("first", "last", "overrides", "message"),
    [
        (4, 4, [], "from step 4 to 4 there is no step"),
        (0, 5, [], r"step-000000000005: .*there are those of steps "),
        (3, 12, [], r"step-000000000003: .*checkpoint\.at names tokens whose checkpoints stay"),
        (0, 12, ["schedule.lr=1"], r"schedule\.lr"),
        (0, 12, ["train.micro_batch=1"], "changes rounding"),
    ],
)
def test_what_cannot_be_replayed_is_refused(run, first, last, overrides, message) -> None:
    end = steps_of(run)[-1]
    with pytest.raises((ConfigError, RunError), match=message):
        plan_replay(run, first, end if last == 12 else last, overrides)


def test_weights_of_two_runs_are_compared_by_the_command(run: Path, folder: Path) -> None:
    train_whole(check(config(folder, "again", micro_batch=3)))
    train_whole(check(config(folder, "other", micro_batch=2)))
    again, other = run.with_name("again"), run.with_name("other")
    command = CliRunner()
    same = command.invoke(app, ["verify", str(run), "--weights", str(again)])
    assert same.exit_code == 0
    assert same.stdout.startswith(f"step {steps_of(run)[-1]}: the same to the bit\n")
    differs = command.invoke(app, ["verify", str(run), "--weights", f"{other}@{steps_of(run)[0]}"])
    assert differs.exit_code == 1
    assert re.match(rf"step {steps_of(run)[0]}: \d+ tensors differ: \w+", differs.stdout)
    with pytest.raises(RunError, match=r"no checkpoint of step 5: the first has .*, the second"):
        compare_weights(run, other, 5)

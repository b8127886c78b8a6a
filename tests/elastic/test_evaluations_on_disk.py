"""What a driver knows of evaluations beside training from the run's files alone, without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_evaluations import example, write_made
from tiny_config import STEP, run_config

from manta.config import MantaError, RunConfig
from manta.elastic.checks.evaluators_data import check_evaluators
from manta.elastic.checks.preflight import Checked, check
from manta.elastic.driver.evaluations_beside import EvaluationsBeside
from manta.record.run_state import read_state
from manta.state.checkpoint_files import Inventory, TrainState, inventories, name_of
from manta.train.awaited_evaluations import AwaitedEvaluations

EVAL = {"name": "quality", "generations": {"answers": {"file": "prompts.jsonl"}}}


@pytest.fixture
def checked(
    tmp_path: Path, make_corpus: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Checked:
    """Twelve steps, of which each second one is measured."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    make_corpus(tmp_path / "corpus", {"train": [[17] * 900]}, vocab_size=61)
    config = run_config(
        tmp_path,
        tmp_path / "corpus",
        wandb={"mode": "disabled"},
        checkpoint={"every": STEP, "best": "answers/success"},
        eval={"patience": 2, "evaluators": {"config": EVAL, "every": 2 * STEP}},
    )
    return check(RunConfig.model_validate(config))


def saved(checked: Checked, step: int) -> Inventory:
    """A checkpoint, as far as it is looked at here."""
    folder = checked.place / "checkpoints" / name_of(step)
    assert isinstance(folder, Path)
    folder.mkdir(parents=True)
    Inventory(TrainState(step=step), {}, stamp=f"stamp-{step}").write(folder, 1)
    return Inventory.read(folder)


def measured(checked: Checked, step: int, success: float, stamp: str | None = None) -> None:
    model = {"place": "run", "run": "tiny", "parameters": 1, "fingerprint": "f"}
    of = {"step": step, "tokens": step * STEP, "checkpoint": stamp or f"stamp-{step}"}
    assert isinstance(checked.place, Path)
    write_made(checked.place, [example("a", success)], model={**model, **of})


def test_due_is_what_the_config_says_and_has_no_result_of_this_very_checkpoint(
    checked: Checked,
) -> None:
    awaited = AwaitedEvaluations(checked.config, checked.schedule, checked.place)
    for step in range(1, 13):
        saved(checked, step)
    there = inventories(checked.place / "checkpoints").values()
    whole = [one for one in there if isinstance(one, Inventory)]
    assert awaited.steps(whole) == {2, 4, 6, 8, 10, 12}
    measured(checked, 4, 0.5)
    measured(checked, 6, 0.5, stamp="of the state before a rewind")
    assert awaited.steps(whole) == {2, 6, 8, 10, 12}
    (awaited.folder(4) / "evaluation.json").write_text("{")
    assert 4 in awaited.steps(whole)


def test_a_driver_takes_up_what_the_one_before_left(checked: Checked) -> None:
    """Results without a row get one; patience counts them; a rewind makes later ones void."""
    assert isinstance(checked.place, Path)

    def rows() -> list[dict[str, Any]]:
        text = (checked.run_dir / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    tracker = checked.tracker(console=False)
    for step, success in ((2, 0.5), (4, 0.75), (6, 0.75)):
        measured(checked, step, success)
    assert not EvaluationsBeside(checked, tracker, mailbox=None).out_of_patience  # type: ignore[arg-type]
    assert [(row["step"], row["answers/success"]) for row in rows()] == [
        (2, 0.5),
        (4, 0.75),
        (6, 0.75),
    ]
    measured(checked, 8, 0.5)
    beside = EvaluationsBeside(checked, tracker, mailbox=None)  # type: ignore[arg-type]
    assert beside.out_of_patience
    assert [row["step"] for row in rows()] == [2, 4, 6, 8]

    tracker.rewound(5)
    beside.rewound(5)
    assert [row["step"] for row in rows()] == [2, 4]
    assert sorted(path.name[-1] for path in (checked.place / "evaluations").iterdir()) == ["2", "4"]
    assert not EvaluationsBeside(checked, tracker, mailbox=None).out_of_patience  # type: ignore[arg-type]
    tracker.finish("stopped")
    assert read_state(checked.run_dir).status == "stopped"


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (EVAL, "prompts.jsonl, line 1: unknown key 'promt'"),
        ({"name": "q", "splits": {"tokens": {}}}, "can't be called 'tokens'"),
        ({"name": "q", "splits": {"a": {"corpus": "nowhere"}}}, "nowhere"),
    ],
)
def test_data_is_read_before_training(
    checked: Checked, tmp_path: Path, evaluation: dict[str, Any], message: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"promt": "a"}\n')
    section = checked.config.eval.evaluators
    assert section is not None
    changed = section.model_copy(update={"config": evaluation})
    config = checked.config.model_copy(
        update={"eval": checked.config.eval.model_copy(update={"evaluators": changed})}
    )
    with pytest.raises(MantaError) as refused:
        check_evaluators(config)
    assert "eval.evaluators.config: " in str(refused.value)
    assert message in str(refused.value)

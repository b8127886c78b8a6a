"""The one list of metrics: spelled nowhere else, and with names in W&B that are told apart."""

import ast
from pathlib import Path

import pytest

from manta.config import metrics
from manta.config.metrics import COMPARABLE, METRICS, better, in_wandb

MANTA = Path(metrics.__file__).parents[1]


def test_the_validation_loss_is_spelled_in_one_place() -> None:
    for path in MANTA.rglob("*.py"):
        if path == Path(metrics.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in (metrics.VAL_LOSS, metrics.VAL_LOSS_OF), (
                    f"{path}:{node.lineno}: use manta.config.metrics.VAL_LOSS"
                )


def test_names_in_wandb_are_told_apart() -> None:
    assert len({metric.wandb for metric in METRICS.values()}) == len(METRICS)
    assert in_wandb("val_loss/web") == "val/loss/web"
    assert in_wandb("tokens/web") == "data/tokens/web"
    assert in_wandb("mine") == "train/mine"


@pytest.mark.parametrize("name", COMPARABLE)
def test_what_runs_are_compared_by_has_a_better_direction(name: str) -> None:
    assert COMPARABLE[name] == ("max" if name in ("tokens_per_s", "mfu") else "min")


def test_of_a_loss_less_is_better_and_of_an_accuracy_more() -> None:
    assert better("val_term/cross_entropy") == better("term/absolute_error") == "min"
    assert better("val_term/accuracy") == better("term/f1") == "max"

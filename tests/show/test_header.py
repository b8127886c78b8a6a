"""What is said of a run before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_config import STEP, run_config

from manta.config import RunConfig
from manta.elastic.checks.preflight import check


def test_the_plan_in_two_lines(tmp_path: Path, make_corpus: Callable[..., Any]) -> None:
    corpus = tmp_path / "corpus"
    make_corpus(corpus, {"train": [[16] * 42], "validation": [[16] * 10]})

    def head(**sections: Any) -> list[str]:
        config = run_config(tmp_path, corpus, **sections)
        return check(RunConfig.model_validate(config)).head()

    assert head() == [
        "112 tokens a step, 2 epochs over the corpus",
        "no evaluations: eval.every is not set",
    ]
    ramp = {"name": "ramp", "from": 4, "to": 8, "over": 500}
    assert head(schedule={"batch": ramp}, eval={"every": STEP, "at": [50, 80], "tokens": 100}) == [
        "64 to 128 tokens a step, 2 epochs over the corpus",
        "evaluates every 112 tokens and at 50, 80 tokens, at step 0 and the end: "
        "96 validation tokens",
    ]

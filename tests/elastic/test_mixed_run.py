"""Runs of a mixture: what is planned, trained, shown and proven of each source; and their forks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_config import STEP, run_config
from whole_runs import train_whole

from manta.config import ConfigError, RunConfig, load
from manta.config.errors import RunError
from manta.elastic.checks.fork_run import fork_run
from manta.elastic.checks.plan_run import show_run_plan
from manta.elastic.checks.preflight import check
from manta.elastic.checks.verifying import verify_run
from manta.show.report.run_report import write_report
from manta.stream.mixed_order import MixedOrder
from manta.stream.plan import order_of

MORE_CODE = ["data.mixture.sources.web.weight=20", "data.mixture.sources.code.max_epochs=null"]
STEPS, FORKED = 12, 6
WEB = [{"from": 90, "until": "50%"}, {"shape": "linear", "to": 60}]
CODE = [{"from": 10, "until": "50%"}, {"shape": "linear", "to": 40}]
MIXTURE = {"sources": {"web": {"weight": WEB}, "code": {"weight": CODE, "max_epochs": 2}}}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, make_corpus: Any) -> dict[str, Any]:
    """A run on two of a corpus's three sources, with a checkpoint in the middle."""
    folder = tmp_path_factory.mktemp("mixed")
    layout = [[50, 90] * 6, [70] * 4, [40] * 5]
    make_corpus(folder / "corpus", {"train": layout}, sources=("web", "code", "math"))
    return run_config(
        folder / "runs",
        folder / "corpus",
        run={"name": "base"},
        data={"mixture": MIXTURE},
        checkpoint={"at": [FORKED * STEP], "keep": 1},
        schedule={"horizon": STEPS * STEP},
        wandb={"mode": "disabled"},
    )


@pytest.fixture(scope="module")
def run(config: dict[str, Any]) -> Path:
    train_whole(check(RunConfig.model_validate(config)))
    return Path(config["run"]["storage"]) / "base"


def order(run: Path) -> MixedOrder:
    found = order_of(check(load(run / "config.yaml", RunConfig)).corpus)
    assert isinstance(found, MixedOrder)
    return found


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_rows_have_the_tokens_of_each_source(run: Path) -> None:
    for row in rows(run):
        counts = order(run).counts(row["tokens"] // 16).tolist()
        assert [row["tokens/web"], row["tokens/code"]] == [16 * count for count in counts]
        assert row["tokens/web"] + row["tokens/code"] == row["tokens"]
    assert "tokens/math" not in rows(run)[0]


def test_verify_proves_what_was_taken_of_each_source(run: Path) -> None:
    verified = verify_run(run)
    taken = order(run).counts(STEPS * 7).tolist()
    assert verified.consumed.by_source == dict(zip(("web", "code"), taken, strict=True))
    web, code = (line for line in verified.lines() if line.startswith("  source "))
    assert (
        web == f"  source web: {taken[0]} samples, {taken[0] / 84:.2%}, {taken[0] / 52:.3g} epochs"
    )
    assert code.startswith("  source code: ")


def test_verify_finds_a_row_with_other_tokens_of_a_source(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "base"))
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[4])
    lines[4] = json.dumps({**row, "tokens/web": row["tokens/web"] + 16})
    (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=r"step 5: tokens/web is \d+, but the config gives"):
        verify_run(copy)


def test_the_report_draws_the_sources(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "Tokens by source" in page


def test_the_plan_says_how_often_each_source_is_seen(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    checked = check(RunConfig.model_validate(config))
    mixed = order_of(checked.corpus)
    assert isinstance(mixed, MixedOrder)
    web, code = mixed.counts(STEPS * 7).tolist()
    often = f"{code / 17:.3g} to {web / 52:.3g} epochs over 2 sources in a mixture"
    assert often in checked.head()[0]
    show_run_plan(checked.config)
    said = " ".join(capsys.readouterr().out.split())
    assert "Source web 90 % → 60 % of the samples" in said
    assert f"{web / 52:.3g} epochs of 52 samples" in said


def test_many_epochs_of_one_source_are_remarked(config: dict[str, Any]) -> None:
    sources = {"web": {"weight": 1}, "math": {"weight": 2}}
    changed = {**config, "data": {"mixture": {"sources": sources}}}
    [said] = check(RunConfig.model_validate(changed)).remarks()
    assert re.match(r"data\.mixture: more than 4 epochs of math \(4\.\d+\): beyond that", said)


def test_other_weights_are_for_a_fork(run: Path, config: dict[str, Any]) -> None:
    """It has the steps before as they were, and its sources go on where they were."""
    child = fork_run(run, FORKED, "more-code", MORE_CODE)
    forked = load(child / "config.yaml", RunConfig)
    assert forked.data.mixture is not None
    [past] = forked.data.mixture.history
    assert past.until == FORKED * STEP
    train_whole(check(forked))
    done = FORKED * 7
    assert order(child).ids(0, done).tolist() == order(run).ids(0, done).tolist()
    assert rows(child)[:FORKED] == rows(run)[:FORKED]
    by_source = verify_run(child).consumed.by_source
    assert by_source == dict(zip(("web", "code"), order(child).counts(84).tolist(), strict=True))
    assert by_source["code"] > verify_run(run).consumed.by_source["code"]
    again = fork_run(child, None, "longer", [f"schedule.horizon={20 * STEP}"])
    train_whole(check(load(again / "config.yaml", RunConfig)))
    assert rows(again)[: len(rows(child))] == rows(child)
    assert verify_run(again).consumed.steps == 20


def test_a_run_without_a_mixture_forks_into_one_and_not_back(
    run: Path, config: dict[str, Any]
) -> None:
    plain = {**config, "data": {}, "run": {**config["run"], "name": "plain"}}
    train_whole(check(RunConfig.model_validate(plain)))
    parent = run.parent / "plain"
    child = fork_run(parent, FORKED, "into", ["data.mixture={sources: {web: {}, math: {}}}"])
    train_whole(check(load(child / "config.yaml", RunConfig)))
    assert rows(child)[:FORKED] == rows(parent)[:FORKED]
    assert verify_run(child).consumed.steps == STEPS
    with pytest.raises(ConfigError, match="a fork goes on with its sources"):
        fork_run(run, FORKED, "back", ["data.mixture=null"])
    past = "[{until: 99, mixture: {sources: {web: {}}}}]"
    with pytest.raises(ConfigError, match=r"data\.mixture\.history: up to step 6, .*leave it out"):
        fork_run(run, FORKED, "other", [f"data.mixture.history={past}"])


def test_a_run_does_not_go_on_with_other_weights(run: Path, config: dict[str, Any]) -> None:
    sources = {"web": {"weight": 1}, "code": {"weight": 1}}
    changed = RunConfig.model_validate({**config, "data": {"mixture": {"sources": sources}}})
    with pytest.raises(RunError, match=r"data\.mixture\.sources\.web\.weight: (.|\n)*`manta fork`"):
        check(changed).tracker(console=False)

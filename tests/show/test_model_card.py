"""The card of an exported model says what its run's record says, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from made_evaluations import example, write_made
from made_sweep import HORIZON, base, ends_at, write_run
from typer.testing import CliRunner

from manta.cli import app
from manta.config.errors import RunError
from manta.config.gate import GateConfig
from manta.evaluate.gate_decision import decide
from manta.record.run_state import read_state
from manta.show.card_page import write_card_page
from manta.show.model_card import model_card
from manta.show.report.run_report import write_report

Facts = dict[str, Any]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(base(tmp_path_factory.mktemp("runs"), "a"), ends_at(3.0))


def split(card: str) -> tuple[Facts, str]:
    _, facts, text = card.split("---\n", 2)
    return yaml.safe_load(facts), text


def test_it_is_a_card_with_the_facts_of_the_record(run_dir: Path) -> None:
    facts, text = split(model_card(run_dir))
    assert facts == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["manta"],
    }
    state = read_state(run_dir)
    assert text.startswith("\n# a\n")
    for part in (
        "| Model | llama, from scratch |",
        "| Validation loss | 3.0200 nats per token |",
        "| Perplexity | 20.49 |",
        "| Horizon | 2B tokens |",
        f"| Corpus fingerprint | `{state.corpus_fingerprint}` |",
        "| Seed | 0 |",
    ):
        assert part in text


def test_an_earlier_checkpoint_is_not_given_the_last_losses(run_dir: Path) -> None:
    text = model_card(run_dir, step=50)
    assert "| Step | 50 of" in text
    assert "Validation loss" not in text
    assert "Tokens" not in text


def test_an_average_is_not_given_the_losses_of_the_weights(tmp_path: Path) -> None:
    config = base(tmp_path, "d") | {"optimizer": {"average": {"half_life": "1%"}}}
    text = model_card(write_run(config, ends_at(3.0)), average=True)
    assert "| Weights | an average with a half-life of 20M tokens |" in text
    assert "Validation loss" not in text


def test_a_model_that_scores_texts_is_loaded_by_its_own_class(tmp_path: Path) -> None:
    config = base(tmp_path, "c") | {"objective": {"type": "classify"}}
    facts, text = split(model_card(write_run(config, ends_at(3.0))))
    assert facts["pipeline_tag"] == "text-classification"
    assert "AutoModelForSequenceClassification.from_pretrained" in text
    assert "3.0200, a mean over texts" in text
    assert "Perplexity" not in text


def test_a_model_that_was_trained_further_names_what_it_comes_from(tmp_path: Path) -> None:
    config = base(tmp_path, "b")
    config["model"] = {"pretrained": "models/first"}
    facts, text = split(model_card(write_run(config, ends_at(3.0), until=HORIZON // 2)))
    assert facts["base_model"] == "models/first"
    assert "trained further from models/first" in text


def test_without_a_run_there_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        model_card(tmp_path)


def test_it_has_the_evaluations_of_its_step_and_the_gates(tmp_path: Path) -> None:
    run = write_run(base(tmp_path, "e"), ends_at(3.0))
    step = read_state(run).totals.steps
    facts = {"place": str(run), "run": "e", "parameters": 1, "fingerprint": "f"}
    rows = [example(str(n), n % 2) for n in range(20)]
    mine = write_made(run, rows, name="mine", model={**facts, "step": step})
    write_made(run, rows, name="earlier", model={**facts, "step": step - 1})
    gate = GateConfig(name="ship", thresholds={"answers/success": {"at_least": 0.9}})
    decide(mine, gate)
    _, text = split(model_card(run))
    assert "| mine | answers/success | 50.0 % | prompts.jsonl (`000000000000`) |" in text
    assert "Gate `ship`: **not passed**" in text
    assert "| earlier |" not in text
    assert "## Evaluations" not in split(model_card(run, step=step - 2))[1]
    done = CliRunner().invoke(app, ["card", f"{run}@{step}", "--output", str(tmp_path / "c.md")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "c.md").read_text() == model_card(run)
    page = write_report(run).read_text()
    assert "answers/success 50.0 %" in page


def test_the_card_as_a_page_has_the_same_text_and_runs_nothing(
    run_dir: Path, tmp_path: Path
) -> None:
    page = tmp_path / "card.html"
    shown = CliRunner().invoke(app, ["card", str(run_dir), "--output", str(page)])
    assert shown.exit_code == 0, shown.output
    text = page.read_text()
    for part in ("<h1>a</h1>", "<td>3.0200 nats per token</td>", "library_name: transformers"):
        assert part in text
    write_card_page(
        "# <script>alert(1)</script>\n\n| a | b |\n| --- | --- |\n| 1 | `<b>` |\n", page
    )
    text = page.read_text()
    assert "<script>alert" not in text
    assert "<td><code>&lt;b&gt;</code></td>" in text

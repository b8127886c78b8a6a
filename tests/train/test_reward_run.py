"""Runs that learn a reward from pairs, and `manta score`: the same scores wherever it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from inline_prepare import without_ray
from peft import LoraConfig, get_peft_model
from plain_runs import ledger, losses, train
from prepared_chats import config_of, made, write_lines
from row_runs import row_run
from tiny_batches import llama
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
)
from typer.testing import CliRunner

from manta.cli import app
from manta.config.errors import ConfigError, RunError
from manta.elastic.checks.preflight import Checked
from manta.train.export import export, generate
from manta.train.scoring import score_file

LENGTH, STEPS = 64, 8
Build = Callable[..., Checked]


def pair(number: int) -> dict[str, Any]:
    """The chosen answer says yes, the rejected one no, of unlike lengths."""
    good, bad = "yes" + "!" * (number % 3), "no" + "." * (number % 4)
    return {"prompt": f"{number * 7 % 83}?", "chosen": good, "rejected": bad}


def answered(question: str, answer: str) -> dict[str, Any]:
    said = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in said]}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    file = write_lines(folder / "a.jsonl", [pair(number) for number in range(120)])
    config = config_of(folder, file, chat={"records": "pairs"})
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        made(config)
    return Path(config.out)


@pytest.fixture
def rewarded(checked: Build, pairs: Path) -> Build:
    return builder(checked, pairs)


def builder(checked: Build, pairs: Path) -> Build:
    def build(name: str, **changes: Any) -> Checked:
        base = row_run(pairs, "reward", LENGTH, STEPS)
        return checked({**base, "run.name": name, **changes})

    return build


def write_config(run: Checked) -> None:
    (run.run_dir / "config.yaml").write_text(yaml.safe_dump(run.config.model_dump(mode="json")))


def test_the_same_pairs_and_losses_at_any_world_size_through_kills(rewarded: Build) -> None:
    alone, mixed = rewarded("alone"), rewarded("mixed")
    rows = train(alone, 1)
    expected = losses(rows)
    assert expected[1] == pytest.approx(0.693, abs=0.05)
    assert expected[STEPS] < expected[1] - 0.1

    train(mixed, 3, die_after=5)
    found = train(mixed, 2, attempt=2)
    assert [row["digest"] for row in ledger(mixed)] == [row["digest"] for row in ledger(alone)]
    for row in found:
        if "loss" in row:
            assert row["loss"] == pytest.approx(expected[row["step"]], rel=1e-5)
    accuracy = {row["step"]: row["val_term/accuracy"] for row in rows if "val_loss" in row}
    again = {row["step"]: row["val_term/accuracy"] for row in found if "val_loss" in row}
    assert again == accuracy
    assert accuracy[STEPS] > 0.9


def test_it_is_for_pairs_alone(rewarded: Build, checked: Build) -> None:
    with pytest.raises(ConfigError, match=r"set objective.type: preference or reward"):
        rewarded("chat", **{"objective.type": "chat"})
    with pytest.raises(ConfigError, match=r"trains on pairs of answers, but .* holds text"):
        checked({"objective.type": "reward"})


@pytest.fixture(scope="module")
def trained(checked_module: Build, pairs: Path) -> tuple[Path, Path]:
    """The folders of a reward run, and of its exported model."""
    run = builder(checked_module, pairs)("scored")
    train(run, 1)
    write_config(run)
    return run.run_dir, export(run.run_dir, run.run_dir / "model")


def test_scores_are_those_of_transformers_whatever_the_batch(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run, folder = trained
    records = [answered(f"{n}?", ("yes", "no, no, not at all")[n % 2]) for n in range(20)]
    records.append({"prompt": "7?", "completion": "yes", "id": "kept"})
    file = write_lines(tmp_path / "asked.jsonl", records)
    found = [json.loads(line) for line in score_file(run, file, tmp_path / "out.jsonl")]
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == found
    assert [{k: v for k, v in one.items() if k != "score"} for one in found] == records
    of_folder = [json.loads(line)["score"] for line in score_file(folder, file, None)]
    assert of_folder == pytest.approx([one["score"] for one in found], abs=1e-6)

    lm = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for one in [*found[:4], {**answered("7?", "yes"), "score": found[-1]["score"]}]:
        ids = tokenizer.apply_chat_template(one["messages"], return_tensors="pt", return_dict=False)
        with torch.no_grad():
            assert one["score"] == pytest.approx(float(lm(input_ids=ids).logits), abs=1e-5)
    assert min(f["score"] for f in found[:20:2]) > max(f["score"] for f in found[1:20:2])


@pytest.mark.parametrize("scores", [1, 3])
def test_an_adapter_of_peft_scores_by_the_base_that_it_names(
    trained: tuple[Path, Path], tmp_path: Path, scores: int
) -> None:
    _, exported = trained
    base, folder = tmp_path / "base", tmp_path / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(exported)
    AutoModelForCausalLM.from_config(llama_of(len(tokenizer))).save_pretrained(base)
    lm = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=scores, pad_token_id=tokenizer.pad_token_id
    )
    peft = get_peft_model(lm, LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)).eval()
    peft.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    records = [answered(f"{n}?", "yes" * (1 + n % 3)) for n in range(6)]
    file = write_lines(tmp_path / "asked.jsonl", records)
    for one in map(json.loads, score_file(folder, file, None)):
        ids = tokenizer.apply_chat_template(one["messages"], return_tensors="pt", return_dict=False)
        with torch.no_grad():
            expected = peft(input_ids=ids).logits[0]
        if scores == 1:
            assert one["score"] == pytest.approx(float(expected), abs=1e-5)
        else:
            found = list(one["probabilities"].values())
            assert found == pytest.approx(expected.softmax(-1).tolist(), abs=1e-5)
    with pytest.raises(RunError, match="scores texts and writes none"):
        generate(folder, "text", tokens=4, temperature=0, seed=0)
    base.rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"for the model '.*base', .* put that model there"):
        list(score_file(folder, file, None))


def llama_of(vocabulary: int) -> LlamaConfig:
    torch.manual_seed(0)
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not valid JSON"),
        ("[]", "line 2: not a JSON object"),
        ('{"text": "a"}', "line 2: no conversation: only 'text' here"),
        ('{"prompt": "a", "completion": "<|im_end|>"}', r"line 2: .* special token '<\|im_end\|>'"),
        ('{"prompt": "a", "completion": "b", "score": 1}', "line 2: it has 'score' already"),
        (json.dumps(answered("a" * 90, "b")), "and the model's context is 64: shorten it"),
    ],
)
def test_a_line_that_has_no_score_is_named(
    trained: tuple[Path, Path], tmp_path: Path, line: str, said: str
) -> None:
    file, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    file.write_text(f"{json.dumps(answered('1?', 'yes'))}\n{line}\n")
    with pytest.raises(RunError, match=said):
        list(score_file(trained[0], file, out))
    assert not out.exists()


def test_a_language_model_gives_no_scores(checked: Build, tmp_path: Path) -> None:
    run = checked({"schedule.horizon": 16 * 7})
    run.run_dir.mkdir(parents=True)
    write_config(run)
    with pytest.raises(RunError, match=r"gives no scores \(objective.type: causal\)"):
        list(score_file(run.run_dir, tmp_path / "asked.jsonl", None))
    llama().save_pretrained(tmp_path / "model")
    with pytest.raises(RunError, match="gives no scores; manta generate has it write text"):
        list(score_file(tmp_path / "model", tmp_path / "asked.jsonl", None))


def test_the_command_prints_a_line_for_each_record(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "asked.jsonl", [answered("1?", "yes"), answered("1?", "no")])
    done = CliRunner().invoke(app, ["score", str(trained[1]), str(file)])
    assert done.exit_code == 0, done.output
    first, second = (json.loads(line)["score"] for line in done.stdout.splitlines())
    assert first > second

"""Judges: a server and a model here say yes or no, and what they can't say is counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluated_runs import evaluation, lines, text_corpus, trained_run
from inline_prepare import without_ray
from made_tokenizers import bert
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from manta.config.errors import ConfigError, MantaError, RunError
from manta.config.evaluation import JudgeSection
from manta.config.load_evaluation import load_evaluation
from manta.evaluate import judge
from manta.evaluate.entailment import Entailment
from manta.evaluate.faithfulness import claims_of
from manta.evaluate.judge import asked_of, verdict
from manta.evaluate.run_evaluation import evaluate
from manta.record.evaluation_record import read_evaluation, read_examples


class Server(HTTPServer):
    """Says yes where the criterion is in the prompt, else no, or fails by a list of codes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.codes: list[int] = []
        self.asked: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({**body, "key": self.headers.get("Authorization")})
        code = self.server.codes.pop(0) if self.server.codes else 200
        text = body["messages"][0]["content"]
        said = "Yes, it does." if "of the web" in text else "No." if "Criterion" in text else "hm"
        content = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(code)
        self.end_headers()
        self.wfile.write(content if code == 200 else b"busy")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        return trained_run(folder, text_corpus(folder))


def config(folder: Path, **keys: Any) -> Path:
    records = [
        {"id": "a", "prompt": "web 1", "judge": "It is of the web."},
        {"id": "b", "prompt": "code 2", "judge": "It is of {answer}."},
        {"id": "c", "prompt": "code 3"},
    ]
    lines(folder / "prompts.jsonl", records)
    section = {"file": "prompts.jsonl", "tokens": 3, **({"judge": keys} if keys else {})}
    return evaluation(folder, generations={"answers": section})


def test_a_server_judges_by_each_criterion(
    run: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    monkeypatch.setattr(judge, "PAUSES", (0.0, 0.0))
    server.codes = [503, 429]  # the first question, which only tries the server
    url = f"http://127.0.0.1:{server.server_port}/v1/"
    path = config(tmp_path, url=url, model="m", key_variable="JUDGE_KEY")
    folder = evaluate(run, None, load_evaluation(path))
    record = read_evaluation(folder)
    rows = {row.id: row for row in read_examples(folder, record)}
    assert [rows[id_].sums.get("success") for id_ in "abc"] == [(1, 1), (0, 1), None]
    assert rows["b"].shown["failed"] == {"judge": "the judge says 'No.'"}
    assert (
        f"Judged by m at {url}, which may be wrong itself." in record.evaluators["answers"].remarks
    )
    assert len(server.asked) == 5
    assert {one["key"] for one in server.asked} == {"Bearer secret"}
    assert "secret" not in (folder / "evaluation.json").read_text()


@pytest.mark.parametrize(
    ("codes", "said"),
    [([401], "it answers 401: busy"), ([500] * 3, "it answers 500"), ([200, 500, 500, 500], "500")],
)
def test_a_server_that_fails_is_named(
    run: Path,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codes: list[int],
    said: str,
) -> None:
    monkeypatch.setattr(judge, "PAUSES", (0.0, 0.0))
    server.codes = codes
    path = config(tmp_path, url=f"http://127.0.0.1:{server.server_port}/v1")
    with pytest.raises(RunError, match=rf"generations.answers.judge: the judge .*{said}"):
        evaluate(run, None, load_evaluation(path))


def test_a_model_here_judges(run: Path, tmp_path: Path) -> None:
    path = config(tmp_path, path=str(run))
    record = read_evaluation(evaluate(run, None, load_evaluation(path)))
    found = record.evaluators["answers"]
    assert found.values["success"] in (0, 0.5, 1)
    assert any("neither yes nor no" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "line 1: it has a criterion for a judge: say which in generations.answers.judge"),
        ({"path": "a", "url": "b"}, "give either 'path', a model here, or 'url'"),
        ({"path": "nowhere"}, "nowhere: neither the directory of a run nor an exported model"),
        ({"url": "http://x", "prompt": "?"}, r"'prompt' needs \{answer\} and \{criterion\}"),
        ({"url": "http://x", "key_variable": "NOT_SET"}, "key_variable = 'NOT_SET': it is not set"),
    ],
)
def test_mistakes_are_named(run: Path, tmp_path: Path, keys: Any, said: str) -> None:
    with pytest.raises(MantaError, match=said):
        evaluate(run, None, load_evaluation(config(tmp_path, **keys)))


def test_what_a_judge_is_asked_and_what_its_reply_means() -> None:
    section = JudgeSection(path="x", prompt="{answer}|{criterion}|{prompt}")
    assert asked_of(section, "{answer}", "A{criterion}", "C") == "A{criterion}|C|{answer}"
    said = {"Yes.": True, "no, yes": False, "YES or no": True, "not sure": None, "": None}
    assert {reply: verdict(reply) for reply in said} == said


def nli(folder: Path, labels: list[str]) -> Path:
    """A classifier of pairs with random weights, and its tokenizer."""
    bert(folder)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=200, intermediate_size=16, max_position_embeddings=32, **small,
        id2label=dict(enumerate(labels)), label2id={name: n for n, name in enumerate(labels)},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_classifier_of_entailment_judges_claims(tmp_path: Path) -> None:
    folder = nli(tmp_path / "nli", ["contradiction", "not_entailment_x", "ENTAILMENT"])
    context, claim = "The cat sat on the mat.", "The cat sat."
    found = Entailment(str(folder), "key").probability(context, claim)
    lm = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        pair = AutoTokenizer.from_pretrained(folder)(context, claim, return_tensors="pt")
        assert found == pytest.approx(float(lm(**pair).logits[0].softmax(-1)[2]), abs=1e-6)
    long = Entailment(str(folder), "key").probability(context * 50, claim)
    assert 0 < long < 1
    for least, supported in ((found - 0.01, True), (found + 0.01, False)):
        entailed = Entailment(str(folder), "key").probability
        (one,) = claims_of(claim, context, least, entailed)
        assert one.supported is supported
    with pytest.raises(ConfigError, match=r"none of its classes .* is called entailment"):
        Entailment(str(nli(tmp_path / "other", ["good", "bad"])), "key")
    with pytest.raises(ConfigError, match=r"key = '.*nowhere': can't be loaded"):
        Entailment(str(tmp_path / "nowhere"), "key")

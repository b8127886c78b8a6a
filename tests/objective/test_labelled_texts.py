"""Labels of texts: scores are read at each text's last token, told by position, and sums exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, LlamaConfig, PretrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from manta.config.errors import ConfigError
from manta.config.model import ModelSection
from manta.config.run import DataSection, RunConfig
from manta.model import attention, model_class
from manta.model.visibility import examine, with_drawn_weights
from manta.objective.labelled_texts import Classification, Regression
from manta.objective.protocol import Models
from manta.objective.weighing import Weighing, by_name
from manta.sample.columns import Columns, Ragged, sliced
from manta.sample.padded import document_ends
from manta.testing import check_objective

CPU = torch.device("cpu")
LENGTH, EOS = 16, 3
CLASSES = ("bad", "good", "neither")
# Lengths of the texts of each row; the rest of a row is padding.
ROWS = [[6, 5], [16], [4, 4, 8], [3], [9, 7], [10]]


def config_of(kind: type[PretrainedConfig] = LlamaConfig, scores: int = 3) -> PretrainedConfig:
    sizes: dict[str, Any] = {
        "vocab_size": 61, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    if kind is GPT2Config:
        sizes = {"vocab_size": 61, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
        sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = kind(**sizes, num_labels=scores, eos_token_id=EOS, pad_token_id=EOS)
    config.problem_type = model_class.CLASSES if scores > 1 else model_class.NUMBER
    return config


def model(scores: int = 3, *, mask: bool = True) -> Any:
    torch.manual_seed(0)
    lm = with_drawn_weights(model_class.from_config(config_of(scores=scores)))
    attention.choose(lm, document_mask=mask, seq_len=LENGTH, device=CPU)
    return lm


def texts(rows: Any = ROWS, padding: int = 0, numbers: bool = False, seed: int = 1) -> Columns:
    drawn = np.random.default_rng(seed)
    tokens = drawn.integers(0, 61, (len(rows), LENGTH)).astype(np.uint16)
    starts, labels, lengths = [], [], []
    for number, row in enumerate(rows):
        begins = np.cumsum([0, *row]).tolist()
        lengths.append(begins[-1])
        starts.append(begins if begins[-1] < LENGTH else begins[:-1])
        labels.append(drawn.normal(size=len(row)) if numbers else drawn.integers(0, 3, len(row)))
        tokens[number, begins[-1] :] = padding
    bounds = np.cumsum([0, *map(len, labels)])
    begins_at = np.cumsum([0, *map(len, starts)])
    return {
        "tokens": tokens,
        "starts": Ragged(np.concatenate(starts).astype(np.int32), begins_at),
        "labels": Ragged(np.concatenate(labels), bounds),
        "lengths": np.array(lengths, np.int32),
    }


def objective_of(numbers: bool, mask: bool = True) -> Classification | Regression:
    if numbers:
        return Regression(document_mask=mask)
    return Classification(CLASSES, document_mask=mask)


def means(objective: Any, lm: Any, batch: Columns) -> list[float]:
    inputs = objective.inputs(batch, CPU)
    sums = objective.module(Models(lm))(*inputs.rows(slice(0, len(inputs))))
    return (sums.detach() / objective.weights(inputs)).tolist()


def alone(lm: Any, batch: Columns, rows: Any = ROWS) -> list[torch.Tensor]:
    """The scores of each text by the class of Transformers itself, without padding."""
    found = []
    for tokens, row in zip(batch["tokens"].astype(np.int64), rows, strict=True):
        for begin, length in zip(np.cumsum([0, *row]), row, strict=False):
            ids = torch.from_numpy(tokens[begin : begin + length])[None]
            hidden = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
            found.append(lm.score(hidden)[0, -1])
    return found


def test_a_text_ends_where_the_next_or_the_padding_begins() -> None:
    rows = [[5, 10], [15], [3, 13], [2, 4, 9], [15]]
    expected = [4, 14, 30, 34, 47, 49, 53, 62, 78]
    assert document_ends(texts(rows)).tolist() == expected
    some = sliced(texts(rows), slice(1, 4))
    assert document_ends(some).tolist() == [14, 18, 31, 33, 37, 46]


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("mask", [True, False])
def test_it_is_exact_over_every_split(numbers: bool, mask: bool) -> None:
    rows = ROWS if mask else [[length] for row in ROWS for length in row][:6]
    lm = model(1 if numbers else 3, mask=mask)
    check_objective(objective_of(numbers, mask), lm, texts(rows, numbers=numbers))


def test_it_is_the_cross_entropy_of_each_text_alone() -> None:
    lm, batch = model(), texts()
    labels = torch.from_numpy(batch["labels"].flat)
    scores = torch.stack(alone(lm, batch)).detach()
    found = means(objective_of(False), lm, batch)
    assert found[0] == pytest.approx(float(torch.nn.functional.cross_entropy(scores, labels)), 1e-6)
    assert found[1] == pytest.approx(float((scores.argmax(-1) == labels).float().mean()))


def test_it_is_the_squared_error_of_each_text_alone() -> None:
    lm, batch = model(1), texts(numbers=True)
    errors = torch.stack(alone(lm, batch)).detach()[:, 0] - torch.from_numpy(batch["labels"].flat)
    found = means(objective_of(True), lm, batch)
    assert found == pytest.approx([float(errors.square().mean()), float(errors.abs().mean())], 1e-5)


def test_padding_and_an_eos_inside_a_text_change_nothing() -> None:
    """Also where padding is the EOS, by which Transformers' class would look for it."""
    lm, objective = model(), objective_of(False)
    plain = texts(padding=0)
    assert means(objective, lm, texts(padding=EOS)) == means(objective, lm, plain)
    inside = texts(padding=EOS)
    inside["tokens"][1, 4] = inside["tokens"][3, 2] = inside["tokens"][5, 8:10] = EOS
    labels = torch.from_numpy(inside["labels"].flat)
    expected = torch.nn.functional.cross_entropy(torch.stack(alone(lm, inside)).detach(), labels)
    assert means(objective, lm, inside)[0] == pytest.approx(float(expected), 1e-6)


def test_a_text_has_the_same_score_wherever_it_stands_in_a_row() -> None:
    """With other texts before it, padding after it, and any rows beside it."""
    lm, objective = model(), objective_of(False)
    text = np.arange(20, 25)
    found = []
    for rows, row, begin in [([[5]], 0, 0), ([[4, 5, 7]], 0, 4), ([[16], [11, 5], [2]], 1, 11)]:
        batch = texts(rows, seed=len(rows))
        batch["tokens"][row, begin : begin + 5] = text
        inputs = objective.inputs(batch, CPU)
        tokens, _, positions, _ = inputs.rows(slice(0, len(rows)))
        scores = lm(input_ids=tokens, position_ids=positions, use_cache=False).logits
        found.append(scores[row, begin + 4])
    assert torch.allclose(found[1], found[0], rtol=1e-5, atol=1e-6)
    assert torch.allclose(found[2], found[0], rtol=1e-5, atol=1e-6)


def test_f1_is_that_of_counts_over_the_whole_batch() -> None:
    lm, batch, objective = model(), texts(), objective_of(False)
    labels = batch["labels"].flat
    taken = torch.stack(alone(lm, batch)).argmax(-1).numpy()
    f1 = []
    for number in range(3):
        right = ((labels == number) & (taken == number)).sum()
        if both := (labels == number).sum() + (taken == number).sum():
            f1.append(2 * right / both)
    row = by_name(objective, means(objective, lm, batch), "term/")
    assert set(row) == {"term/cross_entropy", "term/accuracy", "term/f1"}
    assert row["term/f1"] == pytest.approx(np.mean(f1), 1e-6)


def test_the_loss_trained_on_is_the_first_term_alone() -> None:
    objective = objective_of(False)
    weighing = Weighing(objective.terms, CPU)
    sums = torch.arange(1.0, len(objective.terms) + 1)
    assert float(weighing.loss(sums, torch.full_like(sums, 2.0))) == 0.5


@pytest.mark.parametrize("mask", [True, False])
def test_what_a_model_with_a_head_sees_is_told_by_the_scores_of_all_tokens(mask: bool) -> None:
    run = RunConfig.model_construct(
        data=DataSection(document_mask=mask), model=ModelSection(type="llama")
    )
    lm = model(mask=mask)
    examine(run, lm, 61)
    own = lm.forward
    lm.forward = lambda **given: SequenceClassifierOutput(logits=own(**given).logits.flip(1))
    with pytest.raises(ConfigError, match="it sees later tokens"):
        examine(run, lm, 61)


@pytest.mark.parametrize("kind", [LlamaConfig, GPT2Config])
def test_scores_are_those_that_the_class_itself_has_at_the_last_token(kind: Any) -> None:
    lm = with_drawn_weights(model_class.from_config(config_of(kind))).eval()
    tokens = torch.arange(10, 26)[None]
    with torch.no_grad():
        model_class.refuse_other_head(lm, tokens)
        lm.__class__ = type("Other", (type(lm),), {"forward": doubled(type(lm))})
        with pytest.raises(ConfigError, match="Other: its scores are not those of its layer"):
            model_class.refuse_other_head(lm, tokens)


def doubled(kind: Any) -> Any:
    """A forward pass that gives twice the scores of another one."""
    return lambda lm, **given: SequenceClassifierOutput(logits=2 * kind.forward(lm, **given).logits)

"""Losses of pairs: as of each pair alone in Transformers, however pairs are packed and split."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tiny_batches import llama
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from manta.config.objective import ObjectiveSection
from manta.model import attention, cross_entropy
from manta.model.loss_head import fuse
from manta.objective.pair_losses import LOSSES
from manta.objective.preference import SHOWN, Preference, ReferencePass
from manta.objective.protocol import FrozenModel, Models
from manta.objective.weighing import Weighing
from manta.sample.answer_log_probs import REFERENCE
from manta.sample.columns import Columns, Ragged, sliced
from manta.testing import check_objective

CPU = torch.device("cpu")
LENGTH = 32
# (length, supervised spans) of the conversations of each row, two by two; the rest is padding.
ROWS: list[list[tuple[int, list[tuple[int, int]]]]] = [
    [(6, [(2, 4)]), (5, [(2, 3), (4, 5)]), (9, [(3, 9)]), (12, [(3, 11)])],
    [(16, [(3, 16)]), (4, [(3, 4)])],
    [(4, [(1, 4)]), (4, [(1, 3)]), (8, [(2, 3)]), (5, [(2, 5)]), (3, [(1, 3)]), (3, [(1, 2)])],
    [(5, [(1, 2)]), (3, [(1, 2)])],
    [(9, [(5, 9)]), (7, [(5, 7)])],
]
SECTIONS = {
    "dpo": {"loss": "dpo", "beta": 0.7},
    "cdpo": {"loss": "dpo", "label_smoothing": 0.2},
    "ipo": {"loss": "ipo"},
    "simpo": {"loss": "simpo", "gamma": 0.3},
    "orpo": {"loss": "orpo", "beta": 0.4},
}


def section(name: str = "dpo") -> ObjectiveSection:
    return ObjectiveSection.model_validate({"type": "preference", **SECTIONS[name]})


def ragged(lists: list[list[int]]) -> Ragged:
    bounds = np.cumsum([0, *map(len, lists)]).astype(np.int32)
    return Ragged(np.array([value for one in lists for value in one], np.int32), bounds)


def pairs(rows: Any = ROWS, tokens: Any = None, padding: int = 0) -> Columns:
    """A batch; `tokens` are those of each conversation, drawn if they are not given."""
    drawn = np.random.default_rng(1)
    filled = np.full((len(rows), LENGTH), padding, np.uint16)
    starts, supervised, lengths = [], [], []
    for number, row in enumerate(rows):
        begins = np.cumsum([0, *(length for length, _ in row)]).tolist()
        filled[number, : begins[-1]] = drawn.integers(0, 61, begins[-1])
        if tokens is not None:
            filled[number, : begins[-1]] = np.concatenate(tokens[number])
        lengths.append(begins[-1])
        starts.append(begins if begins[-1] < LENGTH else begins[:-1])
        spans = [(at + b, at + e) for at, (_, m) in zip(begins, row, strict=False) for b, e in m]
        supervised.append([bound for span in spans for bound in span])
    return {
        "tokens": filled,
        "starts": ragged(starts),
        "supervised": ragged(supervised),
        "lengths": np.array(lengths, np.int32),
    }


def tokens_of(batch: Columns, rows: Any = ROWS) -> list[list[np.ndarray]]:
    """The tokens of each conversation of each row."""
    found = []
    for tokens, row in zip(batch["tokens"], rows, strict=True):
        ends = np.cumsum([0, *(length for length, _ in row)]).tolist()
        found.append([tokens[begin:end] for begin, end in pairwise(ends)])
    return found


def model(seed: int = 0, *, fused: bool = False) -> Any:
    lm = llama()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in lm.parameters():
            weight += 0.02 * seed * torch.randn_like(weight)
    attention.choose(lm, document_mask=True, seq_len=LENGTH, device=CPU)
    if fused:
        fuse(lm)
    return lm


def found(
    objective: Preference, lm: Any, reference: Any, batch: Columns, passes: int = 1
) -> tuple[dict[str, float], Tensor]:
    """The mean of each term over a batch, and the gradient of the loss, flat."""
    module = objective.module(Models(lm, FrozenModel(reference)))
    inputs = objective.inputs(batch, CPU)
    weights, weighing = objective.weights(inputs), Weighing(objective.terms, CPU)
    lm.zero_grad()
    total = torch.zeros(len(objective.terms))
    for few in np.array_split(np.arange(len(inputs)), min(passes, len(inputs))):
        sums = module(*inputs.rows(slice(int(few[0]), int(few[-1]) + 1)))
        weighing.for_backward(sums, weights, 1).backward()
        total += sums.detach()
    means = (total / weights).tolist()
    named = {term.name: mean for term, mean in zip(objective.terms, means, strict=True)}
    named["loss"] = float(weighing.loss(total, weights))
    return named, torch.cat([p.grad.flatten() for p in lm.parameters()])


# ------------------------------------------------------------------- pair by pair, by Transformers


def log_probabilities(lm: Any, ids: np.ndarray, spans: list[tuple[int, int]]) -> Tensor:
    """Of each supervised token of a conversation that stands alone, in Transformers alone."""
    given = torch.from_numpy(ids.astype(np.int64))[None]
    logits = lm(input_ids=given, use_cache=False).logits[0].float()
    each = logits[:-1].log_softmax(-1).gather(1, given[0, 1:, None])[:, 0]
    return torch.stack([each[place - 1] for b, e in spans for place in range(b, e)])


def alone(lm: Any, reference: Any, name: str) -> tuple[dict[str, float], Tensor]:
    """The same, with each pair by itself and formulas as the papers write them."""
    lm.zero_grad()
    rows: list[dict[str, Tensor]] = []
    for row, held in zip(ROWS, tokens_of(pairs()), strict=True):
        for first in range(0, len(row), 2):
            both = [(held[i], row[i][1]) for i in (first, first + 1)]
            policy = [log_probabilities(lm, *one) for one in both]
            with torch.no_grad():
                fixed = [log_probabilities(reference, *one) for one in both]
            rows.append(by_paper(name, *policy, *fixed))
    means = {key: torch.stack([row[key] for row in rows]).mean() for key in rows[0]}
    means["loss"].backward()
    return {key: float(value.detach()) for key, value in means.items()}, torch.cat(
        [p.grad.flatten() for p in lm.parameters()]
    )


def by_paper(name: str, yes: Tensor, no: Tensor, yes_ref: Tensor, no_ref: Tensor) -> Any:
    ratios = yes.sum() - yes_ref.sum(), no.sum() - no_ref.sum()
    if name in ("dpo", "cdpo"):
        beta, eps = (0.7, 0.0) if name == "dpo" else (0.1, 0.2)
        good, bad = beta * ratios[0], beta * ratios[1]
        sigmoid = torch.sigmoid(good - bad)
        loss = -(1 - eps) * torch.log(sigmoid) - eps * torch.log(1 - sigmoid)
    elif name == "ipo":
        good, bad = 0.1 * ratios[0], 0.1 * ratios[1]
        loss = (ratios[0] / len(yes) - ratios[1] / len(no) - 1 / (2 * 0.1)) ** 2
    elif name == "simpo":
        good, bad = 2 * yes.mean(), 2 * no.mean()
        loss = -torch.log(torch.sigmoid(good - bad - 0.3))
    else:
        p, q = torch.exp(yes.mean()), torch.exp(no.mean())
        good, bad = torch.log(p / (1 - p)), torch.log(q / (1 - q))
        loss = -yes.mean() - 0.4 * torch.log(
            torch.sigmoid(torch.log((p / (1 - p)) / (q / (1 - q))))
        )
    margin = good - bad
    shown = dict(zip(SHOWN, [margin, margin > 0, good, bad, yes.sum(), no.sum()], strict=True))
    return {"loss": loss, **{key: value.float() for key, value in shown.items()}}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", SECTIONS)
def test_it_is_that_of_each_pair_alone(
    name: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "rows_at_once", lambda weight: 50)  # in several chunks
    expected, gradient = alone(model(), model(3), name)
    means, mine = found(
        Preference(section(name)), model(fused=fused), model(3, fused=fused), pairs()
    )
    for key, value in expected.items():
        assert means[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
    assert (mine - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize("name", SECTIONS)
def test_it_is_exact_over_every_split(name: str) -> None:
    check_objective(Preference(section(name)), model(), pairs(), frozen=model(3))


def repacked(seed: int) -> Columns:
    """The pairs of `ROWS` with the same tokens, laid over rows in another way."""
    held = tokens_of(pairs())
    flat = [
        (row[i : i + 2], tokens[i : i + 2])
        for row, tokens in zip(ROWS, held, strict=True)
        for i in range(0, len(row), 2)
    ]
    np.random.default_rng(seed).shuffle(flat)  # type: ignore[arg-type]
    rows: list[Any] = []
    tokens: list[Any] = []
    for row, ids in flat:
        if not rows or sum(n for n, _ in rows[-1] + row) > LENGTH or len(rows) % 3 == seed % 3:
            rows.append([])
            tokens.append([])
        rows[-1] += row
        tokens[-1] += ids
    return pairs(rows, tokens)


@pytest.mark.parametrize("name", SECTIONS)
def test_packing_changes_no_pair(name: str) -> None:
    objective = Preference(section(name))
    expected, gradient = found(objective, model(), model(3), pairs())
    for seed in range(3):
        means, mine = found(objective, model(), model(3), repacked(seed))
        assert means == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert (mine - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize("passes", [1, 2, 5])
@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("fused", [False, True])
def test_where_the_policy_is_the_reference_the_loss_is_ln_2(
    passes: int, seed: int | None, fused: bool
) -> None:
    batch = pairs() if seed is None else repacked(seed)
    lm, reference = model(fused=fused), model(fused=fused)
    means, gradient = found(Preference(section()), lm, reference, batch, passes)
    assert means["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert means["margin"] == pytest.approx(0, abs=1e-6)
    assert means["reward_chosen"] == pytest.approx(0, abs=1e-6)
    assert gradient.norm() > 1e-3


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_what_was_precomputed_is_what_the_reference_says(name: str) -> None:
    brought = section(name).model_copy(update={"reference": "precomputed"})
    said = ReferencePass(FrozenModel(model(3)), CPU)(pairs())
    assert said.lengths.tolist() == [len(row) for row in ROWS]
    batch = {**pairs(), REFERENCE: said}
    expected, gradient = found(Preference(section(name)), model(), model(3), pairs())
    means, mine = found(Preference(brought), model(), model(3), batch)
    assert means == expected
    assert (mine == gradient).all()
    check_objective(Preference(brought), model(), batch)

    begun = {**pairs(), REFERENCE: ReferencePass(FrozenModel(model()), CPU)(pairs())}
    means, _ = found(Preference(brought), model(), model(), begun, passes=3)
    assert means["margin"] == pytest.approx(0, abs=1e-6)


def test_the_reference_gets_no_gradient_and_is_no_part_of_the_module() -> None:
    lm, reference = model(), model(3)
    module = Preference(section()).module(Models(lm, FrozenModel(reference)))
    assert {id(p) for p in module.parameters()} == {id(p) for p in lm.parameters()}
    found(Preference(section()), lm, reference, pairs())
    assert all(p.grad is None for p in reference.parameters())


def test_a_changed_pair_moves_none_of_those_beside_it() -> None:
    rows = [[ROWS[0][0], ROWS[0][1], (9, []), (12, [])]]
    one, other = pairs(rows), pairs(rows)
    other["tokens"][:, 11:] = (other["tokens"][:, 11:] + 7) % 61
    means, gradient = found(Preference(section()), model(), model(3), one)
    moved, moved_gradient = found(Preference(section()), model(), model(3), other)
    assert moved == means
    torch.testing.assert_close(moved_gradient, gradient, rtol=0, atol=0)


def test_swapped_answers_have_the_opposite_margin() -> None:
    swapped = [[row[i ^ 1] for i in range(len(row))] for row in ROWS]
    held = [[row[i ^ 1] for i in range(len(row))] for row in tokens_of(pairs())]
    objective = Preference(section())
    means, _ = found(objective, model(), model(3), pairs())
    other, _ = found(objective, model(), model(3), pairs(swapped, held))
    assert other["margin"] == pytest.approx(-means["margin"], rel=1e-5)
    assert other["accuracy"] == pytest.approx(1 - means["accuracy"])
    assert other["logp_chosen"] == pytest.approx(means["logp_rejected"], rel=1e-5)


def test_training_raises_the_margin_and_padding_does_not_matter() -> None:
    lm, objective = model(), Preference(section())
    optimizer = torch.optim.Adam(lm.parameters(), 3e-3)
    before, _ = found(objective, lm, model(), pairs(padding=60))
    assert before == found(objective, lm, model(), pairs())[0]
    for _ in range(20):
        found(objective, lm, model(), pairs())
        optimizer.step()
    after, _ = found(objective, lm, model(), pairs())
    assert after["accuracy"] == 1
    assert after["loss"] < 0.5 * before["loss"]
    assert after["margin"] > 1


def test_a_rank_without_rows_weighs_nothing() -> None:
    for name in SECTIONS:
        objective = Preference(section(name))
        inputs = objective.inputs(sliced(pairs(), slice(0, 0)), CPU)
        assert not objective.weights(inputs).any()
        module = objective.module(Models(model(), FrozenModel(model(3))))
        sums = module(*inputs.rows(slice(0, 0), 2))
        assert not sums.any()
        sums.sum().backward()


def test_compiled_it_is_the_same_and_one_graph_for_any_number_of_pairs() -> None:
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("eager")
    objective = Preference(section())
    lm, frozen = model(), model(3)
    plain = objective.module(Models(lm, FrozenModel(frozen)))
    compiled = torch.compile(plain, backend=graphs, dynamic=False)
    for row in range(len(ROWS)):
        inputs = objective.inputs(sliced(pairs(), slice(row, row + 1)), CPU)
        given = inputs.rows(slice(0, 1))
        torch.testing.assert_close(compiled(*given), plain(*given))
        if not row:
            first = graphs.frame_count
    assert first > 0
    assert graphs.frame_count == first


def test_each_loss_names_its_terms() -> None:
    for name, loss in LOSSES.items():
        terms = Preference(ObjectiveSection(type="preference", loss=name)).terms
        trained = [term.name for term in terms if term.coefficient]
        assert trained == list(loss.terms)
        assert [term.name for term in terms if not term.coefficient] == list(SHOWN)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"loss": "kto"}, "kto is no sum over samples"),
        ({"loss": "orpo", "reference": "precomputed"}, "'reference' is for loss dpo or ipo"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "'label_smoothing' is for loss dpo, not for ipo"),
        ({"gamma": 0.5}, "'gamma' is for loss simpo, not for dpo"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"beta": 0}, "greater than 0"),
        ({"type": "chat", "loss": "ipo"}, "'loss' is for type preference, not for chat"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ObjectiveSection.model_validate({"type": "preference", **keys})


def test_log_probabilities_without_a_reference_need_none() -> None:
    for name in ("simpo", "orpo"):
        module = Preference(section(name)).module(Models(model()))
        inputs = Preference(section(name)).inputs(pairs(), CPU)
        assert module(*inputs.rows(slice(0, len(inputs)))).isfinite().all()
    with pytest.raises(ValueError, match="neither a frozen model nor an adapter"):
        Preference(section()).module(Models(model()))

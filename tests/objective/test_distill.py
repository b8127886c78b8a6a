"""Distillation: its formulas against Torch's own, and what a teacher must and must not move."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_batches import LENGTH, ROWS, chats, documents, llama
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from manta.config.errors import ConfigError
from manta.model import attention, cross_entropy, divergence
from manta.model.cross_entropy import IGNORE
from manta.model.divergence import DIVERGENCES, Measure, TeacherLogits
from manta.model.loss_head import fuse
from manta.objective.causal import Causal
from manta.objective.distill import Distillation
from manta.objective.protocol import FrozenModel, Models
from manta.objective.weighing import Weighing
from manta.sample.teacher_top import LOG_PROBS, TAIL
from manta.sample.teacher_top import TOKENS as TOKENS_OF_TEACHER
from manta.testing import check_objective

CPU = torch.device("cpu")
TOKENS, WIDTH, VOCABULARY = 700, 8, 37
MEASURES = [
    *(Measure(name) for name in DIVERGENCES),
    *(Measure(name, kd_ratio=0.7, temperature=2.5) for name in DIVERGENCES),
    Measure("jsd", kd_ratio=0.9, temperature=0.5, jsd_beta=0.1),
    Measure(kd_ratio=0.0),
]


def label(measure: Measure) -> str:
    return f"{measure.divergence}-{measure.kd_ratio}-{measure.temperature}"


def by_torch(student: Tensor, teacher: Tensor, labels: Tensor, measure: Measure) -> Tensor:
    """Loss, divergence and cross-entropy of each label, (labels, 3), by Torch's functions."""
    at = measure.temperature

    def kl(p: Tensor, log_q: Tensor) -> Tensor:
        return F.kl_div(log_q, p, reduction="none").sum(1)

    p, q = (teacher / at).softmax(1), (student / at).softmax(1)
    beta = measure.jsd_beta
    mixed = beta * p + (1 - beta) * q
    apart = {
        "forward_kl": lambda: kl(p, q.log()),
        "reverse_kl": lambda: kl(q, p.log()),
        "jsd": lambda: beta * kl(p, mixed.log()) + (1 - beta) * kl(q, mixed.log()),
    }[measure.divergence]()
    hard = F.cross_entropy(student, labels, reduction="none", ignore_index=IGNORE)
    loss = measure.kd_ratio * at**2 * apart + (1 - measure.kd_ratio) * hard
    return torch.stack([loss, apart, hard], 1)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("measure", MEASURES, ids=label)
def test_sums_and_gradients_are_those_of_the_formulas(
    measure: Measure, scaled: bool, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 1)  # three chunks, the last one shorter
    torch.manual_seed(0)
    hidden, weight, bias = (
        torch.randn(shape, dtype=torch.float64).requires_grad_()
        for shape in ((TOKENS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    )
    other = torch.randn(TOKENS, VOCABULARY, dtype=torch.float64)
    labels = torch.randint(0, VOCABULARY, (TOKENS,))
    labels[::3] = IGNORE
    scale = torch.rand(TOKENS, dtype=torch.float64) if scaled else None
    counted = (labels != IGNORE) * (1 if scale is None else scale)

    logits = F.linear(hidden, weight, bias)
    expected = (by_torch(logits, other, labels, measure) * counted[:, None]).sum(0)
    expected[0].backward()
    gradients = [each.grad.clone() for each in (hidden, weight, bias)]  # type: ignore[union-attr]
    for each in (hidden, weight, bias):
        each.grad = None

    teacher = TeacherLogits(other)
    if whole:
        logits = F.linear(hidden, weight, bias)
        found = divergence.divergence(logits, teacher, labels, measure, scale)
    else:
        found = divergence.linear_divergence(hidden, weight, bias, teacher, labels, measure, scale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-9)
    (3 * found[0] + found[1] + found[2]).backward()  # those beside the loss have no gradient
    for each, gradient in zip((hidden, weight, bias), gradients, strict=True):
        assert each.grad is not None
        assert (each.grad - 3 * gradient).norm() <= 1e-6 * gradient.norm()


@pytest.mark.parametrize("measure", MEASURES, ids=label)
@pytest.mark.parametrize("batch", [documents(), chats()], ids=["text", "chats"])
@pytest.mark.parametrize("per", ["token", "sequence"])
def test_it_is_exact_over_every_split(measure: Measure, batch: Any, per: Any) -> None:
    objective = Distillation(measure, per=per)
    check_objective(objective, llama(), batch, frozen=teacher_of())


def teacher_of(seed: int = 1) -> Any:
    lm = llama()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in lm.parameters():
            weight.normal_(std=0.5)
    return lm


def prepared(lm: Any, fused: bool) -> Any:
    attention.choose(lm, document_mask=False, seq_len=LENGTH, device=CPU)
    if fused:
        fuse(lm)
    return lm


def taught(
    lm: Any, teacher: Any, measure: Measure, batch: Any = None
) -> tuple[list[float], Tensor]:
    """Mean of each term, and the loss's gradient, flat."""
    objective = Distillation(measure)
    inputs = objective.inputs(batch or documents(), CPU)
    lm.zero_grad()
    module = objective.module(Models(lm, FrozenModel(teacher)))
    sums, weights = module(*inputs.rows(slice(0, len(inputs)))), objective.weights(inputs)
    Weighing(objective.terms, CPU).for_backward(sums, weights, 1).backward()
    return (sums / weights).tolist(), torch.cat([p.grad.flatten() for p in lm.parameters()])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_teacher_that_is_the_student_gives_nothing(name: Any, fused: bool) -> None:
    lm = prepared(teacher_of(), fused)
    (loss, apart, hard), gradient = taught(lm, copy.deepcopy(lm), Measure(name, temperature=2.0))
    assert abs(loss) <= 1e-6
    assert abs(apart) <= 1e-6
    assert float(gradient.norm()) <= 1e-5
    assert hard > 1


@pytest.mark.parametrize("name", DIVERGENCES)
def test_what_the_teacher_says_of_other_rows_is_another_loss(name: Any) -> None:
    class Shuffled(torch.nn.Module):
        def __init__(self, lm: Any):
            super().__init__()
            self.lm, self.config = lm, lm.config

        def forward(self, input_ids: Tensor, **given: Any) -> Any:
            return self.lm(input_ids=input_ids.roll(1, 0), **given)

    lm = prepared(teacher_of(), False)
    same = copy.deepcopy(lm)
    plain, shuffled = (taught(lm, each, Measure(name))[0][0] for each in (same, Shuffled(same)))
    assert plain <= 1e-6
    assert shuffled > 0.1


@pytest.mark.parametrize("student", [False, True])
@pytest.mark.parametrize("teacher", [False, True])
def test_logits_in_chunks_or_as_a_whole_are_one(student: bool, teacher: bool) -> None:
    measure = Measure(kd_ratio=0.6, temperature=2.0)
    expected, gradient = taught(prepared(llama(), False), prepared(teacher_of(), False), measure)
    found, own = taught(prepared(llama(), student), prepared(teacher_of(), teacher), measure)
    assert found == pytest.approx(expected, rel=1e-5)
    assert (own - gradient).norm() <= 1e-5 * gradient.norm()


def test_without_a_share_of_the_teacher_it_is_causal() -> None:
    lm = prepared(llama(), True)
    (loss, _, hard), gradient = taught(lm, prepared(teacher_of(), True), Measure(kd_ratio=0.0))
    causal, inputs = Causal(), Causal().inputs(documents(), CPU)
    lm.zero_grad()
    sums = causal.module(Models(lm))(*inputs.rows(slice(0, len(inputs))))
    mean = sums.sum() / causal.weights(inputs).sum()
    mean.backward()
    assert loss == hard == pytest.approx(float(mean.detach()), rel=1e-6)
    expected = torch.cat([p.grad.flatten() for p in lm.parameters()])
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()


def test_of_conversations_the_answers_alone_are_compared() -> None:
    objective = Distillation(Measure())
    assert (
        objective.weights(objective.inputs(chats(), CPU)).tolist()
        == [sum(end - begin for row in ROWS for _, spans in row for begin, end in spans)] * 3
    )


def test_the_logits_of_neither_are_ever_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(
            self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = function(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.ndim == 2 and VOCABULARY in out.shape:
                self.elements = max(self.elements, out.numel())
            return out

    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 1)
    torch.manual_seed(0)
    tokens = 4 * cross_entropy.LEAST_ROWS
    hidden, weight = (torch.randn(n, WIDTH, requires_grad=True) for n in (tokens, VOCABULARY))
    teacher = TeacherLogits(torch.randn(tokens, WIDTH), torch.randn(VOCABULARY, WIDTH))
    labels = torch.randint(0, VOCABULARY, (tokens,))
    with Largest() as largest:
        found = divergence.linear_divergence(hidden, weight, None, teacher, labels, Measure())
        found[0].backward()
    assert largest.elements == cross_entropy.LEAST_ROWS * VOCABULARY


@pytest.mark.parametrize("top", [None, 5])
def test_no_logits_are_computed_of_tokens_without_a_label(
    top: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student's output layer and the teacher's, or what was kept of it, are of labels alone."""
    seen = set[int]()
    of_rows = divergence._sums_and_slope

    def noted(student: Tensor, teacher: Any, rows: slice, *more: Any) -> Any:
        said = teacher.hidden if top is None else teacher.tokens
        seen.update([len(student), len(said[rows])])
        return of_rows(student, teacher, rows, *more)

    monkeypatch.setattr(divergence, "_sums_and_slope", noted)
    hidden, weight, other = (torch.randn(n, WIDTH) for n in (40, VOCABULARY, 40))
    teacher: Any = TeacherLogits(other, torch.randn(VOCABULARY, WIDTH))
    labels = torch.full((40,), IGNORE)
    labels[::4] = 3
    if top:
        teacher = teacher.top(top, 1.0)
    divergence.linear_divergence(hidden, weight, None, teacher, labels, Measure())
    assert seen == {10}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("measure", MEASURES, ids=label)
def test_the_most_likely_tokens_and_the_rest_are_compared_as_one_more(
    measure: Measure, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against Torch's functions of the probabilities of these classes, and their gradient."""
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 1)
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64).requires_grad_()
    other = 2 * torch.randn(TOKENS, VOCABULARY, dtype=torch.float64)
    labels = torch.randint(0, VOCABULARY, (TOKENS,))
    at, count = measure.temperature, 5
    teacher = TeacherLogits(other).top(count, at)
    assert teacher.tokens.shape == teacher.log_probs.shape == (TOKENS, count)
    mass = teacher.log_probs.exp().sum(1) + teacher.tail.exp()
    torch.testing.assert_close(mass, torch.ones_like(mass))

    def classes(logits: Tensor) -> Tensor:
        """Logits at T of the teacher's most likely tokens, and of the rest together, times T."""
        tokens = (other / at).softmax(1).argsort(1, descending=True)
        ordered = (logits / at).log_softmax(1).gather(1, tokens)
        rest = ordered[:, count:].logsumexp(1, keepdim=True)
        return torch.cat([ordered[:, :count], rest], 1) * at

    logits = hidden @ weight.T
    apart = by_torch(classes(logits), classes(other), torch.zeros_like(labels), measure)[:, 1]
    hard = F.cross_entropy(logits, labels, reduction="none")
    loss = measure.kd_ratio * at**2 * apart + (1 - measure.kd_ratio) * hard
    expected = torch.stack([loss.sum(), apart.sum(), hard.sum()])
    gradients = torch.autograd.grad(expected[0], [hidden, weight])

    if whole:
        found = divergence.divergence(hidden @ weight.T, teacher, labels, measure)
    else:
        found = divergence.linear_divergence(hidden, weight, None, teacher, labels, measure)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-9)
    for own, gradient in zip(
        torch.autograd.grad(found[0], [hidden, weight]), gradients, strict=True
    ):
        assert (own - gradient).norm() <= 1e-6 * gradient.norm()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_less_is_known_by_fewer_tokens_and_nothing_where_the_student_says_the_same(
    name: Any,
) -> None:
    torch.manual_seed(0)
    student, other = torch.randn(2, 50, VOCABULARY)
    labels = torch.zeros(50, dtype=torch.int64)
    measure = Measure(name, temperature=2.0)

    def apart(teacher: Tensor, count: int) -> float:
        top = TeacherLogits(teacher).top(count, 2.0)
        return float(divergence.divergence(student, top, labels, measure)[1])

    whole = float(divergence.divergence(student, TeacherLogits(other), labels, measure)[1])
    known = [apart(other, count) for count in (1, 5, 20, VOCABULARY - 1)]
    assert known == sorted(known)
    assert known[-1] == pytest.approx(whole, rel=1e-5)
    assert known[0] < 0.5 * whole
    assert abs(apart(student, 5)) <= 1e-5


@pytest.mark.parametrize("per", ["token", "sequence"])
@pytest.mark.parametrize("batch", [documents(), chats()], ids=["text", "chats"])
def test_it_is_exact_by_precomputed_probabilities_too(batch: Any, per: Any) -> None:
    objective = Distillation(Measure(kd_ratio=0.8), per=per, precomputed=True)
    drawn = torch.Generator().manual_seed(2)
    top = TeacherLogits(torch.randn(6 * LENGTH, 61, generator=drawn)).top(4, 1.0)
    columns = (TOKENS_OF_TEACHER, top.tokens), (LOG_PROBS, top.log_probs), (TAIL, top.tail)
    said = {name: each.view(6, LENGTH, *each.shape[1:]).numpy() for name, each in columns}
    check_objective(objective, llama(), batch | said)


def test_other_vocabularies_are_refused() -> None:
    small = copy.deepcopy(llama())
    small.config.vocab_size = 60
    with pytest.raises(ConfigError, match=r"vocabulary has 60 entries, .* trained model has 61"):
        Distillation(Measure()).module(Models(llama(), FrozenModel(small)))

"""The output layer and its loss as one: the plain one's value and gradients, without its memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from manta.model import cross_entropy
from manta.model.cross_entropy import IGNORE, label_cross_entropy, linear_cross_entropy

REL = 1e-6
ROUNDINGS = 16 * torch.finfo(torch.float32).eps


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    logits = F.linear(hidden, weight, bias).float()
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")


def inputs(tokens: int, width: int, vocab: int, bias: bool, ignored: float) -> list[Tensor | None]:
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    labels = torch.randint(0, vocab, (tokens,))
    labels[torch.rand(tokens) < ignored] = IGNORE
    return [hidden, weight, torch.randn(vocab, requires_grad=True) if bias else None, labels]


def outcome(function, arguments: list[Tensor | None], scale: float = 1.0) -> list[Tensor]:
    """Loss and gradients, by fresh leaves."""
    leaves = [
        a.detach().clone().requires_grad_(a.requires_grad) for a in arguments if a is not None
    ]
    given = iter(leaves)
    loss = function(*[None if a is None else next(given) for a in arguments])
    (loss * scale).backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves if leaf.requires_grad)]


def in_float64(arguments: list[Tensor | None], scale: float) -> list[tuple[Tensor, Tensor]]:
    """Loss and gradients in float64 from the same float32 logits, each with the sum of the sizes
    of its terms: what cancels in a sum is rounded before."""
    hidden, weight, bias, labels = arguments
    logits = F.linear(hidden, weight, bias).detach().double()
    valid = (labels != IGNORE).double()[:, None]
    hit = F.one_hot(labels.clamp(min=0), len(weight)) * valid
    softmax = logits.softmax(1) * valid
    hidden, weight = hidden.detach().double(), weight.detach().double()
    of_label, normalizer = (logits * hit).sum(1, keepdim=True), logits.logsumexp(1, keepdim=True)
    loss, size = (normalizer - of_label) * valid, (normalizer.abs() + of_label.abs()) * valid
    found = [(loss.sum(), size.sum())]
    slope, size = (softmax - hit) * scale, (softmax + hit) * scale
    found += [(slope @ weight, size @ weight.abs()), (slope.T @ hidden, size.T @ hidden.abs())]
    if bias is not None:
        found.append((slope.sum(0), size.sum(0)))
    return found


def assert_same(one: list[Tensor], other: list[Tensor], rel: float) -> None:
    for mine, theirs in zip(one, other, strict=True):
        scale = max(float(theirs.abs().max()), 1e-3)
        assert float((mine - theirs).abs().max()) <= rel * scale


def rows_at_once(patch: pytest.MonkeyPatch, rows: int) -> None:
    """Have the logits of so few rows held at a time that small inputs take several rounds."""
    patch.setattr(cross_entropy, "rows_at_once", lambda weight: rows)


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 40),
    width=st.integers(1, 24),
    vocab=st.integers(1, 60),
    bias=st.booleans(),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    rows=st.sampled_from([1, 2, 7, 1000]),
    seed=st.integers(0, 2**32),
)
def test_loss_and_gradients_are_exact(tokens, width, vocab, bias, ignored, rows, seed) -> None:
    """As float64 sees it, up to some roundings of the terms: of a logit of 17, as some here are,
    one alone moves its softmax by 1e-6. The plain one is no measure where terms cancel."""
    torch.manual_seed(seed)
    arguments = inputs(tokens, width, vocab, bias, ignored)
    with pytest.MonkeyPatch.context() as patch:
        rows_at_once(patch, rows)
        mine = outcome(linear_cross_entropy, arguments, scale=0.37)
    for ours, (value, size) in zip(mine, in_float64(arguments, 0.37), strict=True):
        assert (ours.double() - value).abs().max() <= ROUNDINGS * size.max()


def test_no_row_counts_gives_zeros() -> None:
    loss, *gradients = outcome(linear_cross_entropy, inputs(5, 3, 7, True, 1.1))
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)


def test_a_loss_that_is_not_finite_reaches_every_gradient(monkeypatch) -> None:
    rows_at_once(monkeypatch, 3)
    _, *gradients = outcome(linear_cross_entropy, inputs(9, 3, 50, True, 0.0), scale=float("nan"))
    assert all(gradient.isnan().all() for gradient in gradients)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [3, 1000])
def test_bf16_is_as_exact_as_the_plain_one_in_bf16(monkeypatch, rows, bias) -> None:
    """Against float32 on the same values: the error may not be above the plain one's."""
    rows_at_once(monkeypatch, rows)
    torch.manual_seed(0)
    arguments = inputs(64, 32, 50, bias, 0.2)
    exact = outcome(plain, arguments)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = (outcome(f, arguments) for f in (linear_cross_entropy, plain))
    assert mine[0].dtype == torch.float32
    for ours, plain_one, truth in zip(mine, theirs, exact, strict=True):
        assert (ours - truth).norm() <= 1.1 * (plain_one - truth).norm() + 1e-6 * truth.norm()


class Largest(TorchDispatchMode):
    """Remembers the most elements that any tensor had."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_all_logits_are_never_held(monkeypatch) -> None:
    rows_at_once(monkeypatch, 16)
    arguments = inputs(tokens=512, width=8, vocab=64, bias=True, ignored=0.1)
    with Largest() as mine:
        outcome(linear_cross_entropy, arguments)
    with Largest() as theirs:
        outcome(plain, arguments)
    assert theirs.elements == 512 * 64
    assert mine.elements == 512 * 8  # the hidden states themselves


@pytest.mark.parametrize(("vocab", "rows"), [(8192, 2048), (65_536, 256), (131_072, 256)])
def test_rows_at_once_by_the_vocabulary(vocab, rows) -> None:
    assert cross_entropy.rows_at_once(torch.empty(vocab, 0)) == rows


GIB = 2**30


@pytest.mark.parametrize(("memory", "chunk"), [(8, 0.5), (24, 0.6), (80, 2), (140, 2)])
def test_an_accelerator_with_room_computes_more_logits_at_a_time(memory, chunk) -> None:
    assert cross_entropy.chunk_of(memory * GIB) == pytest.approx(chunk * GIB)


def test_a_sum_in_float32_of_products_in_bf16_is_asked_for_as_torch_takes_it() -> None:
    """Without values: only CUDA computes it."""
    total = torch.empty(50, 8, device="meta")
    slope, hidden = (torch.empty(9, n, dtype=torch.bfloat16, device="meta") for n in (50, 8))
    torch.addmm(total, slope.T, hidden, out_dtype=torch.float32, out=total)
    assert not cross_entropy.adds_in_float32(torch.device("cpu"))


def test_nothing_is_kept_for_a_gradient_that_nobody_wants() -> None:
    arguments = inputs(9, 3, 50, False, 0.0)
    with torch.no_grad():
        loss = linear_cross_entropy(*arguments)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(plain(*arguments).item(), rel=REL)


def test_it_compiles_as_one_graph(monkeypatch) -> None:
    rows_at_once(monkeypatch, 7)
    torch.manual_seed(0)
    arguments = inputs(40, 8, 30, True, 0.2)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    assert_same(outcome(compiled, arguments), outcome(plain, arguments), REL)


@pytest.mark.parametrize("chunk", [1, 2**30])
def test_each_label_counts_as_much_as_its_scale_says(chunk, monkeypatch) -> None:
    """All rows at once, or few at a time."""
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", chunk)
    monkeypatch.setattr(cross_entropy, "LEAST_ROWS", 5)
    torch.manual_seed(0)
    scale = torch.rand(23)
    given = inputs(23, 8, 31, True, 0.3)

    def weighed(hidden, weight, bias, labels) -> Tensor:
        logits = F.linear(hidden, weight, bias).float()
        each = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        return (each * scale).sum()

    found = outcome(lambda *arguments: linear_cross_entropy(*arguments, scale), given, 0.5)
    torch.testing.assert_close(found, outcome(weighed, given, 0.5))


@pytest.mark.parametrize("ignored", [0.5, 0.95, 1.1])
@pytest.mark.parametrize("each", [False, True])
def test_logits_of_labels_that_do_not_count_are_not_computed(monkeypatch, each, ignored) -> None:
    rows_at_once(monkeypatch, 64)
    torch.manual_seed(0)
    arguments = inputs(tokens=256, width=8, vocab=64, bias=False, ignored=ignored)
    mine, theirs = (chunked_curved, plain_curved) if each else (linear_cross_entropy, plain)
    assert_same(outcome(mine, arguments), outcome(theirs, arguments), 3 * REL)
    counted = int((arguments[3] != IGNORE).sum())
    assert flops_of(mine, arguments) == flops_of(mine, inputs(counted, 8, 64, False, 0.0))


def flops_of(function, arguments: list[Tensor | None]) -> int:
    with FlopCounterMode(display=False) as flops:
        outcome(function, arguments)
    return flops.get_total_flops()


# ----------------------------------------------------------------------- the loss of each label


def curved(losses: Tensor) -> Tensor:
    """What is no plain sum of losses: each label's gradient depends on all of them."""
    return (losses[::2].sum() - losses[1::2].sum()).tanh() + (0.1 * losses).exp().sum()


def plain_curved(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    logits = F.linear(hidden, weight, bias).float()
    return curved(F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none"))


def chunked_curved(*arguments: Tensor) -> Tensor:
    return curved(label_cross_entropy(*arguments))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_each_label_has_the_gradient_that_it_is_asked_for(monkeypatch, rows, bias) -> None:
    rows_at_once(monkeypatch, rows)
    torch.manual_seed(0)
    arguments = inputs(40, 8, 30, bias, 0.2)
    assert_same(outcome(chunked_curved, arguments), outcome(plain_curved, arguments), 3 * REL)


def test_that_of_each_label_compiles_as_one_graph(monkeypatch) -> None:
    rows_at_once(monkeypatch, 15)
    torch.manual_seed(0)
    arguments = inputs(40, 8, 30, True, 0.2)
    compiled = torch.compile(chunked_curved, fullgraph=True, backend="aot_eager")
    assert_same(outcome(compiled, arguments), outcome(plain_curved, arguments), 3 * REL)


def test_all_logits_are_never_held_for_each_label_either(monkeypatch) -> None:
    rows_at_once(monkeypatch, 16)
    arguments = inputs(tokens=512, width=8, vocab=64, bias=True, ignored=0.1)
    with Largest() as mine:
        outcome(chunked_curved, arguments)
    assert mine.elements == 512 * 8  # the hidden states themselves


def test_each_label_in_bf16_is_as_exact_as_the_plain_one(monkeypatch) -> None:
    rows_at_once(monkeypatch, 9)
    torch.manual_seed(0)
    arguments = inputs(64, 32, 50, True, 0.2)
    exact = outcome(plain_curved, arguments)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = (outcome(f, arguments) for f in (chunked_curved, plain_curved))
    for ours, plain_one, truth in zip(mine, theirs, exact, strict=True):
        assert (ours - truth).norm() <= 1.1 * (plain_one - truth).norm() + 1e-6 * truth.norm()

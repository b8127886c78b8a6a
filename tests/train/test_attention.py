"""Attention without a mask of seq_len² elements is the attention that it replaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import create_causal_mask

from manta.model import attention
from manta.model.forward import DOCUMENTS, blocks_of, documents_of
from manta.objective.causal import TokenLoss, labels_of

SEQ_LEN, VOCAB = 24, 61
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "vocab_size": VOCAB,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "mistral": {"sliding_window": 64},
}
WINDOWED = {"mistral": {"sliding_window": 8}, "gemma3_text": {"head_dim": 16, "sliding_window": 8}}
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def model_of(kind: str, sizes: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **sizes}))


def implementation(lm: PreTrainedModel) -> str:
    return lm.config._attn_implementation


def choose(lm: PreTrainedModel, document_mask: bool, device: torch.device = CPU) -> None:
    attention.choose(lm, document_mask=document_mask, seq_len=SEQ_LEN, device=device)


def packed() -> tuple[Tensor, Tensor]:
    """Tokens of two rows of several documents, and their positions."""
    torch.manual_seed(1)
    lengths = [[5, 1, 11, 7], [24]]
    positions = [torch.cat([torch.arange(n) for n in row]) for row in lengths]
    return torch.randint(0, VOCAB, (2, SEQ_LEN)), torch.stack(positions)


def outcome(lm: PreTrainedModel) -> list[Tensor]:
    """Loss and gradients of plain rows."""
    lm.zero_grad()
    tokens = packed()[0]
    loss = TokenLoss(lm)(tokens, labels_of(tokens, None), None)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in lm.parameters() if p.grad is not None)]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


class Masks(TorchDispatchMode):
    """Counts boolean tensors of (…, seq_len, seq_len)."""

    made = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.bool:
            self.made += tuple(result.shape[-2:]) == (SEQ_LEN, SEQ_LEN)
        return result


@pytest.mark.parametrize("kind", MODELS)
def test_causal_attention_needs_no_mask(kind) -> None:
    lm = model_of(kind, MODELS[kind])
    before = outcome(lm)
    choose(lm, document_mask=False)
    assert implementation(lm) == attention.CAUSAL
    assert_same(outcome(lm), before)


def masks_in_a_trace(lm: PreTrainedModel) -> int:
    """How many masks `torch.compile` makes for a plain batch."""
    masks = []

    def look(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        def run(*inputs: Tensor) -> Any:
            with Masks() as counted:
                result = graph(*inputs)
            masks.append(counted.made)
            return result

        return run

    torch.compiler.reset()
    torch.compile(TokenLoss(lm), backend=look)(*(packed()[0],) * 2, None)
    torch.compiler.reset()
    return sum(masks)


def test_compiled_causal_attention_needs_none_either() -> None:
    """Transformers alone makes one; once it does not, `CAUSAL` saves only the host's wait."""
    lm = model_of("llama", {})
    assert masks_in_a_trace(lm) > 0
    choose(lm, document_mask=False)
    assert masks_in_a_trace(lm) == 0


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_window_keeps_its_mask(kind) -> None:
    lm = model_of(kind, WINDOWED[kind])
    before = outcome(lm)
    choose(lm, document_mask=False)
    assert implementation(lm) == attention.MASKED
    assert_same(outcome(lm), before)


class Attended(TorchDispatchMode):
    """Collects the type in which Torch's attention is computed, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, torch.dtype] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if "attention" in name:
            self.seen[name] = args[0].dtype
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("document_mask", [False, True])
def test_on_a_cpu_attention_is_in_float32_whatever_the_precision(document_mask, window) -> None:
    lm = model_of("mistral", {"sliding_window": window})
    choose(lm, document_mask=document_mask)
    tokens, positions = packed()
    given = positions if document_mask else None
    losses = {}
    for name in (implementation(lm), "sdpa"):
        lm.set_attn_implementation(name)
        with Attended() as attended, torch.autocast("cpu", torch.bfloat16):
            losses[name] = TokenLoss(lm)(tokens, labels_of(tokens, given), given)
            losses[name].backward()
        expected = torch.bfloat16 if name == "sdpa" else torch.float32
        assert list(attended.seen.values()) == [expected] * 2, "forward and backward"
    mine, theirs = losses.values()
    torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("kind", "sizes", "device", "expected"),
    [
        ("llama", {}, CUDA, DOCUMENTS),
        ("qwen3", {"head_dim": 16}, CUDA, DOCUMENTS),
        ("mistral", {"sliding_window": 8}, CUDA, attention.BLOCKS),
        ("llama", {}, CPU, attention.MASKED),
        ("llama", {"attention_dropout": 0.1}, CUDA, "sdpa"),
        ("gpt2", {}, CUDA, "sdpa"),
    ],
    ids=["cuda", "cuda, other", "cuda, window", "cpu", "dropout", "dropout of gpt2"],
)
def test_documents_are_told_apart_by_blocks_where_that_is_a_kernel(
    kind, sizes, device, expected
) -> None:
    lm = model_of(kind, sizes)
    choose(lm, document_mask=True, device=device)
    assert implementation(lm) == expected


class Waits(TorchDispatchMode):
    """Counts values that the host asks for: for each it would wait for an accelerator."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "sizes", "expected"),
    [
        ("llama", {}, DOCUMENTS),
        ("qwen3", {"head_dim": 16}, DOCUMENTS),
        ("mistral", {"sliding_window": 64}, DOCUMENTS),
        ("mistral", {"sliding_window": 8}, attention.BLOCKS),
    ],
    ids=["llama", "qwen3", "mistral", "window"],
)
def test_blocks_are_the_same_attention_as_the_mask(kind, sizes, expected) -> None:
    """Of the forward pass, without the kernel: on a CPU Torch has no backward of it."""
    lm, (tokens, positions) = model_of(kind, sizes), packed()
    masked = lm(input_ids=tokens, position_ids=positions, use_cache=False).logits
    plain = lm(input_ids=tokens, use_cache=False).logits
    choose(lm, document_mask=True, device=CUDA)
    assert implementation(lm) == expected
    loss = TokenLoss(lm)
    with torch.compiler.set_stance("force_eager"):
        blocks = lm(input_ids=tokens, use_cache=False, **documents_of(lm, positions)).logits
    torch.testing.assert_close(blocks, masked, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, masked, rtol=1e-2)
    labels = labels_of(tokens, positions)
    with torch.compiler.set_stance("force_eager"):
        mine = loss(tokens, labels, positions)
    theirs = F.cross_entropy(masked.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(mine, theirs[None], rtol=1e-5, atol=0)


def test_documents_are_told_apart_without_a_look_at_their_positions() -> None:
    """Transformers makes the same mask, but first asks whether there are several documents."""
    lm, (tokens, positions) = model_of("llama", {}), packed()
    lm.set_attn_implementation(attention.BLOCKS)
    embedded = lm.get_input_embeddings()(tokens)
    with torch.compiler.set_stance("force_eager"):
        with Waits() as mine:
            blocks = blocks_of(positions)
        with Waits() as theirs:
            same = create_causal_mask(lm.config, embedded, None, None, positions)
    assert torch.equal(blocks.to_dense(), same.to_dense())
    assert theirs.count > mine.count == 0


def test_a_model_that_knows_documents_by_blocks_compiles_as_one_graph() -> None:
    """The forward pass, without the kernel. Transformers' own making of blocks breaks the graph."""
    lm, (tokens, positions) = model_of("llama", {}).requires_grad_(False), packed()
    choose(lm, document_mask=True, device=CUDA)
    loss, labels = TokenLoss(lm), labels_of(tokens, positions)
    with torch.compiler.set_stance("force_eager"):
        expected = loss(tokens, labels, positions)
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(tokens, labels, positions), expected, rtol=1e-5, atol=0)
    torch.compiler.reset()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_blocks_take_queries_and_keys_in_the_type_of_the_values() -> None:
    """As rotary positions leave them under autocast; of mixed types Torch has no backward."""
    torch.manual_seed(0)
    module = model_of("llama", {}).model.layers[0].self_attn
    wide = torch.randn(3, 1, 2, SEQ_LEN, 16)
    query, key, value = wide.bfloat16()
    causal = create_block_mask(lambda _, __, q, k: q >= k, 1, None, SEQ_LEN, SEQ_LEN, device="cpu")
    attend = AttentionInterface()[attention.BLOCKS]
    with torch.compiler.set_stance("force_eager"):
        same, _ = attend(module, query, key, value, causal)
        mixed, _ = attend(module, query.float(), key.float(), value, causal)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, same)

"""What a model that was trained does, found out without the code that is to be judged.

Dependence is seen by derivatives: where a logit depends on no later token, its derivative by that
token's embedding is nought, whatever the weights. The loss is Transformers' own, of a model of its
own with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

# Of the derivatives by what is seen.
NOUGHT = 1e-6
SAME = 1e-5
AT = 9  # the place of the logits that are looked at, in rows of ROW tokens
ROW = 16


def wrong(lm: nn.Module, resolved: PretrainedConfig, loss_sum: Any, vocabulary: int) -> list[str]:
    """What is wrong with a trained model; nothing if all is right.

    Args:
        lm: as the engine has it.
        resolved: its config.
        loss_sum: the engine's loss of rows of tokens, summed.
        vocabulary: tokens of the corpus.
    """
    lm.eval()
    found = []
    tokens = torch.randint(0, vocabulary, (2, ROW), generator=torch.Generator().manual_seed(5))
    if not is_causal(lm, tokens):
        found.append("logits depend on later tokens")
    if untaught := rows_without_gradient(lm, vocabulary):
        found.append(
            f"{len(untaught)} rows of the embedding get no gradient, such as {untaught[0]}"
        )
    ours, theirs = float(loss_sum(tokens)), plain_loss(lm, resolved, tokens)
    if abs(ours - theirs) > SAME * abs(theirs):
        found.append(f"the loss is {ours:.6f}, that of Transformers {theirs:.6f}")
    return found


def sees_other_documents(lm: nn.Module, vocabulary: int) -> bool:
    """Whether logits of a document depend on one before it, though positions begin anew."""
    lm.eval()
    tokens = torch.randint(0, vocabulary, (1, ROW), generator=torch.Generator().manual_seed(6))
    positions = torch.arange(ROW)[None].remainder(ROW // 2)
    seen = derivatives(lm, tokens, positions, at=ROW // 2 + 1)  # recurrent layers forget
    return bool(seen[: ROW // 2].max() > NOUGHT * seen[ROW // 2 :].max())


def is_causal(lm: nn.Module, tokens: Tensor) -> bool:
    """Whether logits depend on no later token: by derivatives, and by another last token."""
    seen = derivatives(lm, tokens[:1], None, at=AT)
    later = float(seen[AT + 1 :].max()) > NOUGHT * float(seen[: AT + 1].max())
    return not later and moves_only_after(lm, tokens)


def derivatives(lm: nn.Module, tokens: Tensor, positions: Tensor | None, at: int) -> Tensor:
    """The largest derivative of some sum of the logits `at` by the embedding of each token."""
    with _looked_up(lm, tokens) as outputs:
        logits = _logits(lm, tokens, positions)
    mix = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(7))
    if not outputs:
        raise LookupError("the model looks its tokens up in no embedding")
    grads = torch.autograd.grad((logits[0, at].float() * mix).sum(), outputs, allow_unused=True)
    return sum(
        (g[0].abs().amax(-1) for g in grads if g is not None), start=torch.zeros(tokens.shape[1])
    )


def moves_only_after(lm: nn.Module, tokens: Tensor) -> bool:
    """Whether another last token leaves all logits before it as they are."""
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % int(tokens.max() + 1)
    with torch.no_grad():
        one, other = (_logits(lm, t, None)[:, :-1] for t in (tokens, changed))
    return bool((one - other).abs().max() <= SAME * one.abs().max())


def rows_without_gradient(lm: nn.Module, vocabulary: int) -> list[int]:
    """Tokens of the corpus whose rows, looked up, are passed no gradient."""
    row = torch.randint(0, vocabulary, (1, ROW), generator=torch.Generator().manual_seed(8))
    with _looked_up(lm, row) as outputs:
        _logits(lm, row, None)
    missing: set[int] = set()
    modules = {output.module for output in outputs}  # type: ignore[attr-defined]
    for module in (module for module in modules if module.num_embeddings >= vocabulary):
        looked_up = module(torch.arange(vocabulary)[None])
        given = torch.autograd.grad(looked_up.sum(), module.weight)[0][:vocabulary]
        missing |= set((given.abs().sum(-1) == 0).nonzero().flatten().tolist())
    return sorted(missing)


def plain_loss(lm: nn.Module, resolved: PretrainedConfig, tokens: Tensor) -> float:
    """Transformers' own loss of a model of its own with the same weights, summed over labels."""
    own = AutoModelForCausalLM.from_config(resolved, dtype=torch.float32)
    own.load_state_dict(lm.state_dict())
    own.eval()
    if hasattr(own.config, "use_cache"):
        own.config.use_cache = False
    with torch.no_grad():
        out = own(input_ids=tokens, labels=tokens)
    count = tokens[:, 1:].numel()
    plain = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    shifted_by_itself = abs(out.loss - plain) > SAME * plain
    unshifted = F.cross_entropy(out.logits.flatten(0, 1), tokens.flatten())
    if shifted_by_itself and abs(out.loss - unshifted) <= SAME * unshifted:
        return float(plain) * count  # a decoder that takes labels which are shifted already
    return float(out.loss) * count


def draws(lm: nn.Module, tokens: Tensor) -> bool:
    """Whether two passes in training differ."""
    lm.train()
    torch.manual_seed(1)
    with torch.no_grad():
        seen = [_logits(lm, tokens, None) for _ in range(4)]
    lm.eval()
    return not all(torch.equal(seen[0], one) for one in seen)


def _logits(lm: nn.Module, tokens: Tensor, positions: Tensor | None) -> Tensor:
    given: dict[str, Any] = {} if positions is None else {"position_ids": positions}
    for config in (lm.config, lm.config.get_text_config()):
        config.use_cache = False  # with a cache, Transformers doesn't look for documents
    logits: Tensor = lm(input_ids=tokens, **given).logits
    return logits


@contextmanager
def _looked_up(lm: nn.Module, tokens: Tensor) -> Iterator[list[Tensor]]:
    """The outputs of all embeddings that are given these tokens in the block."""
    outputs: list[Tensor] = []

    def note(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        same = given and isinstance(given[0], Tensor) and torch.equal(given[0], tokens)
        # One of positions is given tokens too by some types; what it gives has no rows.
        # Some types look tokens up without a gradient, too, in a part that is not trained.
        if same and output.shape[:2] == tokens.shape and output.requires_grad:
            output.module = module  # type: ignore[attr-defined]
            outputs.append(output)

    hooks = [m.register_forward_hook(note) for m in lm.modules() if isinstance(m, nn.Embedding)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()

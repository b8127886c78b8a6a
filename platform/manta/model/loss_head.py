"""An output layer that gives the loss of its tokens in place of their logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from manta.model.forward import options_of

# Computes something else of inputs, weight and bias of an output layer, in place of its logits.
Instead = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class LossHead(nn.Linear):
    """The output layer of a language model; asked to, it returns a loss in place of logits.

    It has the parameters of the layer that it replaces, by the same names.

    Attributes:
        instead: function that the next call has compute from the layer's inputs, (tokens, width),
            in place of logits; None for logits.
    """

    def __init__(self, head: nn.Linear):
        with torch.device("meta"):
            super().__init__(head.in_features, head.out_features, bias=head.bias is not None)
        self.weight, self.bias = head.weight, head.bias
        self.instead: Instead | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits, (…, vocabulary), or what `instead` computes, once."""
        if self.instead is None:
            return super().forward(hidden)
        instead, self.instead = self.instead, None
        return instead(hidden.flatten(0, -2), self.weight, self.bias)


def fuse(lm: nn.Module, like: nn.Module | None = None) -> None:
    """Have the output layer of `lm` compute the loss, so that logits are never held all at once.

    Left alone is a model that does more than to return what that layer gives, such as one that
    scales or caps its logits. To be called before the model is laid over ranks.

    Args:
        lm: the language model whose layer is replaced.
        like: a model of its kind that was here before, to do likewise; else `lm` itself is tried.
    """
    head = getattr(lm, "get_output_embeddings", lambda: None)()
    if type(head) is not nn.Linear:
        return
    name = next(name for name, module in lm.named_modules() if module is head)
    fused = LossHead(head)
    lm.set_submodule(name, fused)
    fits = _ends_with(lm, fused) if like is None else _is_fused(like)
    if not fits:
        lm.set_submodule(name, head)


def head_of(lm: nn.Module) -> LossHead | None:
    """The output layer of a model that `fuse` has replaced; None if it is left alone."""
    return next((module for module in lm.modules() if isinstance(module, LossHead)), None)


def _is_fused(lm: nn.Module) -> bool:
    return head_of(lm) is not None


@torch.no_grad()
def _ends_with(lm: nn.Module, head: nn.Module) -> bool:
    """Whether what `head` gives is what `lm` returns: tried, not assumed."""
    given: list[Tensor] = []
    hook = head.register_forward_hook(lambda _module, _inputs, output: given.append(output))
    tokens = torch.zeros((1, 2), dtype=torch.int64, device=next(lm.parameters()).device)
    returned = lm(input_ids=tokens, **options_of(lm)).logits
    hook.remove()
    return len(given) == 1 and returned is given[0]

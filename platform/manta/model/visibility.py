"""What a model sees of a sample: no later tokens, no other samples, no other documents.

Tried on the model itself: what must not be seen is changed, and logits may not move.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.model import attention
from manta.model.forward import documents_of, options_of
from manta.model.language_model import train_all_embeddings
from manta.model.small import skeleton, small_of

# Tokens of a row, which is two documents. Two rows differ from CHANGE on, in the second document.
ROW, DOCUMENT, CHANGE = 16, 8, 12
# Of the largest logit. Rounding moves logits by some 1e-6 of it, also in a mixture of experts,
# whose products are grouped by content; what is seen though it must not be, by 1e-3 and more.
TOLERANCE = 1e-4
# What makes a type causal that is not so by itself, if it has the setting.
CAUSAL_BY: dict[str, Any] = {
    "is_decoder": True,
    "causal": True,
    "use_bidirectional_attention": False,
}


def named(config: RunConfig) -> str:
    """The run's model by key and value."""
    section = config.model
    key, value = ("type", section.type) if section.type else ("pretrained", section.pretrained)
    return f"model.{key} = {value!r}"


def made(resolved: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """The language model of a config, with weights from `with_drawn_weights`.

    Also where a head takes the place of its output layer: what it sees of a sample is the same.
    """
    torch.manual_seed(seed)
    own = copy.deepcopy(resolved)
    return with_drawn_weights(AutoModelForCausalLM.from_config(own, dtype=torch.float32))


def with_drawn_weights(lm: PreTrainedModel) -> PreTrainedModel:
    """The model with weights in general position: none is nought, and no effect is small."""
    train_all_embeddings(lm)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter += 0.1 * torch.randn_like(parameter)
    return lm


def examine(config: RunConfig, lm: PreTrainedModel, vocab_size: int) -> None:
    """Try a model that is made, on its device: what it sees of a sample.

    Args:
        config: the run.
        lm: the language model, with the attention that it trains with.
        vocab_size: size of the corpus's tokenizer, in tokens.

    Raises:
        ConfigError: if logits depend on later tokens, other samples, or other documents though
            `data.document_mask` is on.
    """
    refuse_what_sees_too_much(config, lm, sample_rows(lm, vocab_size))


def refuse_what_sees_too_much(config: RunConfig, lm: PreTrainedModel, rows: Tensor) -> None:
    """As `examine`, on rows from `sample_rows`."""
    positions = None
    if config.data.document_mask:
        positions = torch.arange(ROW, device=rows.device).remainder(DOCUMENT).expand(3, ROW)
    with evaluating(lm):
        first, later, other = logits_of(lm, rows, positions)
        alone = logits_of(lm, rows[:1], None if positions is None else positions[:1])[0]
    if moved(first[:CHANGE], later[:CHANGE]):
        raise ConfigError(
            f"{named(config)}: it sees later tokens, which it is to predict; "
            + _causal_by(config, lm)
        )
    if moved(first, alone):
        raise ConfigError(
            f"{named(config)}: what it says of a sample depends on others in the same forward "
            "pass, and so on micro-batch and workers; take another model.type"
        )
    if positions is not None and moved(first[DOCUMENT:], other[DOCUMENT:]):
        raise ConfigError(
            f"data.document_mask: {type(lm).__name__} attends across document boundaries all the "
            "same; turn it off, or take another model.type"
        )


def _causal_by(config: RunConfig, lm: PreTrainedModel) -> str:
    """What to do so that a model of this type sees no later tokens."""
    for key, value in CAUSAL_BY.items():
        if getattr(lm.config, key, value) == value:
            continue
        changed = copy.deepcopy(lm.config)
        setattr(changed, key, value)
        small = small_of(changed, skeleton(changed))
        if small is not None and _is_causal(config, small):
            written = str(value).lower()
            if config.model.type:
                return f"set model.sizes.{key}: {written} to train it as a decoder"
            return f"set {key}: {written} in the config.json of a copy to train it as a decoder"
    return "take a causal model.type, such as llama, qwen3 or gpt2"


def _is_causal(config: RunConfig, small: PretrainedConfig) -> bool:
    lm = made(small)
    attention.choose(
        lm, document_mask=False, seq_len=config.train.seq_len, device=torch.device("cpu")
    )
    rows = sample_rows(lm, small.vocab_size)
    with evaluating(lm):
        first, later, _ = logits_of(lm, rows, None)
    return not moved(first[:CHANGE], later[:CHANGE])


def sample_rows(lm: PreTrainedModel, vocabulary: int) -> Tensor:
    """Three rows of tokens, (3, ROW): the second has other tokens from CHANGE on, the third another
    first document. The first document begins with tokens that mean something to the model.
    """
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randint(0, vocabulary, (1, ROW), generator=drawn).repeat(3, 1)
    special = [v for k, v in vars(lm.config.get_text_config()).items() if k.endswith("_token_id")]
    special += [m.padding_idx for m in lm.modules() if isinstance(m, nn.Embedding)]
    known = sorted({one for one in special if isinstance(one, int) and 0 <= one < vocabulary})
    for place, token in enumerate(known[: DOCUMENT - 1]):
        rows[:, place] = token
    shift = max(1, vocabulary // 2)
    rows[1, CHANGE:] = (rows[1, CHANGE:] + shift) % vocabulary
    rows[2, :DOCUMENT] = (rows[2, :DOCUMENT] + shift) % vocabulary
    return rows.to(next(lm.parameters()).device)


def logits_of(lm: PreTrainedModel, tokens: Tensor, positions: Tensor | None) -> Tensor:
    """Logits, (rows, tokens, vocabulary), as in training."""
    documents = documents_of(lm, positions)
    logits: Tensor = lm(input_ids=tokens, **documents, **options_of(lm)).logits
    return logits


def moved(one: Tensor, other: Tensor) -> bool:
    """Whether logits differ by more than rounding, or are no numbers."""
    scale = one.detach().abs().max()
    return not bool(((one - other).abs().max() <= TOLERANCE * scale).item())


@contextmanager
def evaluating(lm: nn.Module) -> Iterator[None]:
    """In it, the model evaluates, without gradients."""
    was_training = lm.training
    lm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        lm.train(was_training)

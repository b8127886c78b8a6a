"""A model is tried before workers are asked for: what it does decides, not what it is called.

Sizes that the model itself refuses are found without memory for its weights. What else must hold is
seen on a small model of the same kind. Its weights are drawn such that whatever can have an effect
has a large one: a later token that is seen, or one of another document, moves logits by far more
than rounding does.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.train import attention, randomness
from manta.train.loss import options_of
from manta.train.model import train_all_embeddings
from manta.train.small import skeleton, small_of, weights
from manta.train.tried import Tried

# Tokens of a row, which is two documents. Two rows differ from CHANGE on, in the second document.
ROW, DOCUMENT, CHANGE = 16, 8, 12
# Of the largest logit. Rounding moves logits by some 1e-6 of it, also in a mixture of experts,
# whose products are grouped by content; what is seen though it must not be, by 1e-3 and more.
TOLERANCE = 3e-5
# Of a loss, between two ways of computing it.
SAME_LOSS = 1e-4
# Positions that a type may have beside those for tokens, or leave out.
AROUND = 8
# What makes a type causal that is not so by itself, if it has the setting.
CAUSAL_BY: dict[str, Any] = {
    "is_decoder": True,
    "causal": True,
    "use_bidirectional_attention": False,
}
# The factor of a loss beside the cross-entropy, by its usual names.
COEFFICIENT = re.compile(r"(aux\w*|balanc\w*|z)_loss_(coef\w*|alpha|weight)$|^aux_loss_coef$")


def try_out(config: RunConfig, resolved: PretrainedConfig, vocab_size: int) -> Tried:
    """Make the run's model without its weights, and try a small one of its kind on the CPU.

    Args:
        config: the run.
        resolved: of its model.
        vocab_size: of the corpus's tokenizer, in tokens.

    Raises:
        ConfigError: naming what is wrong and what to do.
    """
    skeletal = _skeleton(config, resolved)
    small = small_of(resolved, skeletal)
    remarks = (randomness.remark(resolved),)
    untried = Tried(weights(skeletal), False, remarks if randomness.drawn_by(resolved) else ())
    if small is None:
        return untried
    try:
        with torch.random.fork_rng(devices=[]):
            draws = _try(config, small, vocab_size)
    except ConfigError:
        raise
    except Exception as error:  # each model's class has errors of its own
        if small is not resolved:
            return untried  # the sizes that we took may be why
        raise ConfigError(
            f"{named(config)}: its first forward pass, on {ROW} tokens and nothing else, fails: "
            f"{_said(error)}; take other sizes, or another model.type"
        ) from None
    return Tried(untried.weights, True, remarks if draws else ())


def named(config: RunConfig) -> str:
    """The run's model by key and value."""
    section = config.model
    key, value = ("type", section.type) if section.type else ("pretrained", section.pretrained)
    return f"model.{key} = {value!r}"


# --------------------------------------------------------------------------- a small model


def _skeleton(config: RunConfig, resolved: PretrainedConfig) -> PreTrainedModel:
    try:
        return skeleton(resolved)
    except Exception as error:  # each model's class has checks, and errors, of its own
        said = _said(error)
        guilty = [
            f"{key} = {value}"
            for key, value in vars(resolved).items()
            if isinstance(value, int) and value > 1 and re.search(rf"\b{value}\b", said)
        ]
        where = f" ({', '.join(guilty)})" if guilty else ""
        if "padding_idx" in said.lower():
            where = (
                f": pad_token_id = {resolved.pad_token_id} is beyond its vocabulary of "
                f"{getattr(resolved, 'vocab_size', '?')}; set model.sizes.pad_token_id: null"
            )
        raise ConfigError(
            f"model.sizes: {resolved.model_type} can't be made of them: {said}{where}"
        ) from None


def _try(config: RunConfig, small: PretrainedConfig, vocab_size: int) -> bool:
    """Try a small model; returns whether it draws random numbers in training."""
    lm = _made(small)
    vocabulary = min(vocab_size, getattr(small.get_text_config(), "vocab_size", vocab_size))
    rows = _rows(lm, vocabulary)
    own = _own_logits(config, lm, rows[:1])
    attention.choose(
        lm,
        document_mask=config.data.document_mask,
        seq_len=config.train.seq_len,
        device=torch.device("cpu"),
    )
    _refuse_what_sees_too_much(config, lm, rows)
    with _evaluating(lm):
        ours = _logits(lm, rows[:1], None)
    if own is not None and _moved(own, ours):
        raise ConfigError(
            f"{named(config)}: its logits differ from those of Transformers under Torch's "
            "attention; take another model.type"
        )
    _refuse_too_few_positions(config, lm, vocabulary)
    return _draws(lm, rows[:1], ours)


def _made(resolved: PretrainedConfig) -> PreTrainedModel:
    """A model whose weights are in general position: none is nought, and no effect is small."""
    torch.manual_seed(0)
    own = copy.deepcopy(resolved)
    lm: PreTrainedModel = AutoModelForCausalLM.from_config(own, dtype=torch.float32)
    train_all_embeddings(lm)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter += 0.1 * torch.randn_like(parameter)
    return lm


def _own_logits(config: RunConfig, lm: PreTrainedModel, tokens: Tensor) -> Tensor | None:
    """The logits of a row as Transformers has them; None if it takes no labels.

    Raises:
        ConfigError: if a token's row of an embedding learns nothing, or if the model's own loss is
            more than the cross-entropy, or would be if its router's logits were asked for.
    """
    head = lm.get_output_embeddings()
    if isinstance(head, nn.Linear):  # tied to the embedding, it would give it a gradient as well
        head.weight = nn.Parameter(head.weight.detach().clone())
    labels = {"labels": tokens} if "labels" in inspect.signature(lm.forward).parameters else {}
    tables: list[nn.Embedding] = []
    given = {"input_ids": tokens, **labels, **options_of(lm)}
    with _evaluating(lm), torch.enable_grad(), _noting_tables(lm, tokens, tables):
        try:
            with _routing(lm):
                out = lm(**given)
        except Exception:  # some types can't where none of the layers has a router
            out = lm(**given)
    logits: Tensor = out.logits
    shifted = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    _refuse_untaught_tokens(config, shifted, tokens, tables)
    if not labels:
        return None
    # Some types take labels that are shifted already, as we do it ourselves.
    plain = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    if not any(abs(out.loss - loss) <= SAME_LOSS * abs(loss) for loss in (shifted, plain)):
        _refuse_other_losses(config, lm)
    return logits.detach()


@contextmanager
def _routing(lm: PreTrainedModel) -> Iterator[None]:
    """Have the loss of the router computed too, by a model that has one."""
    asked = getattr(lm.config, "output_router_logits", None)
    if asked is False:
        lm.config.output_router_logits = True
    try:
        yield
    finally:
        if asked is False:
            lm.config.output_router_logits = asked


def _refuse_other_losses(config: RunConfig, lm: PreTrainedModel) -> None:
    settings = vars(lm.config.get_text_config())
    keys = [key for key, value in settings.items() if COEFFICIENT.search(key) and value]
    if not keys:
        raise ConfigError(
            f"{named(config)}: its own loss is more than the cross-entropy of the next token, all "
            "that is trained on here; take another model.type"
        )
    found = ", ".join(f"{key} = {settings[key]:g}" for key in keys)
    where = "model.sizes." if config.model.type else "in the config.json of a copy, "
    raise ConfigError(
        f"{named(config)}: its own loss has more to it than the cross-entropy of the next token "
        f"({found}): a balance of whole batches, which is no sum over samples and would depend on "
        f"the number of workers; set {' and '.join(f'{where}{key}: 0' for key in keys)} to train "
        "without it"
    )


def _refuse_too_few_positions(config: RunConfig, lm: PreTrainedModel, vocabulary: int) -> None:
    """A whole sample is tried where the model's positions may end within it."""
    length = config.train.seq_len
    context = getattr(lm.config.get_text_config(), "max_position_embeddings", None) or 0
    tables = {m.num_embeddings for m in lm.modules() if isinstance(m, nn.Embedding)}
    learned = tables & set(range(context, context + AROUND))
    if context > length + AROUND and not learned:
        return
    try:
        with _evaluating(lm):
            _logits(lm, torch.randint(0, vocabulary, (1, length)), None)
    except (IndexError, RuntimeError) as error:
        raise ConfigError(
            f"train.seq_len = {length}: {named(config)} has no positions for so many tokens "
            f"({_said(error)}); lower it, or raise model.sizes.max_position_embeddings"
        ) from None


def _refuse_untaught_tokens(
    config: RunConfig, loss: Tensor, tokens: Tensor, tables: list[nn.Embedding]
) -> None:
    """Each token that another one follows has a row in each embedding that learns from it."""
    used = torch.unique(tokens[0, :-1])
    weights = [table.weight for table in tables]
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True) if weights else ()
    for gradient in gradients:
        untaught = used[gradient[used].abs().sum(-1) == 0].tolist()
        if untaught:
            raise ConfigError(
                f"{named(config)}: token {untaught[0]} would never be learned, for its row of the "
                "embedding gets no gradient; take another model.type"
            )


@contextmanager
def _noting_tables(lm: nn.Module, tokens: Tensor, found: list[nn.Embedding]) -> Iterator[None]:
    """Add the embeddings of tokens that forward passes of `tokens` look them up in."""

    def note(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Embedding)
        same = given and isinstance(given[0], Tensor) and torch.equal(given[0], tokens)
        # A table of positions may be given tokens too, but it doesn't look these up.
        if same and module.num_embeddings > int(tokens.max()):
            rows = F.embedding(tokens, module.weight)
            if F.cosine_similarity(rows.flatten(), output.flatten(), dim=0) > 0.99:
                found.append(module)

    modules = [module for module in lm.modules() if isinstance(module, nn.Embedding)]
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _draws(lm: PreTrainedModel, tokens: Tensor, evaluated: Tensor) -> bool:
    """Whether training draws random numbers."""
    if any("layerdrop" in key for key in randomness.drawn_by(lm.config)):
        return True  # a layer that is left out now and then may stay in what follows
    lm.train()
    seen = [evaluated]
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            seen.append(_logits(lm, tokens, None))
        if torch.equal(seen[-1], seen[-2]):
            return False
    return True


# ------------------------------------------------------------------------------- any model


def examine(config: RunConfig, lm: PreTrainedModel, vocab_size: int) -> None:
    """Try a model that is made, on its device: what it sees of a sample.

    Args:
        config: the run.
        lm: with the attention that it trains with.
        vocab_size: of the corpus's tokenizer, in tokens.

    Raises:
        ConfigError: if logits depend on later tokens, other samples, or other documents though
            `data.document_mask` is on.
    """
    _refuse_what_sees_too_much(config, lm, _rows(lm, vocab_size))


def _refuse_what_sees_too_much(config: RunConfig, lm: PreTrainedModel, rows: Tensor) -> None:
    positions = None
    if config.data.document_mask:
        positions = torch.arange(ROW, device=rows.device).remainder(DOCUMENT).expand(3, ROW)
    with _evaluating(lm):
        first, later, other = _logits(lm, rows, positions)
        alone = _logits(lm, rows[:1], None if positions is None else positions[:1])[0]
    if _moved(first[:CHANGE], later[:CHANGE]):
        raise ConfigError(
            f"{named(config)}: it sees later tokens, which it is to predict; "
            + _causal_by(config, lm)
        )
    if _moved(first, alone):
        raise ConfigError(
            f"{named(config)}: what it says of a sample depends on others in the same forward "
            "pass, and so on micro-batch and workers; take another model.type"
        )
    if positions is not None and _moved(first[DOCUMENT:], other[DOCUMENT:]):
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
    lm = _made(small)
    attention.choose(
        lm, document_mask=False, seq_len=config.train.seq_len, device=torch.device("cpu")
    )
    rows = _rows(lm, small.vocab_size)
    with _evaluating(lm):
        first, later, _ = _logits(lm, rows, None)
    return not _moved(first[:CHANGE], later[:CHANGE])


def _rows(lm: PreTrainedModel, vocabulary: int) -> Tensor:
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


def _logits(lm: PreTrainedModel, tokens: Tensor, positions: Tensor | None) -> Tensor:
    given = {} if positions is None else {"position_ids": positions}
    logits: Tensor = lm(input_ids=tokens, **given, **options_of(lm)).logits
    return logits


def _moved(one: Tensor, other: Tensor) -> bool:
    """Whether logits differ by more than rounding, or are no numbers."""
    scale = one.detach().abs().max()
    return not bool(((one - other).abs().max() <= TOLERANCE * scale).item())


@contextmanager
def _evaluating(lm: nn.Module) -> Iterator[None]:
    was_training = lm.training
    lm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        lm.train(was_training)


def _said(error: Exception) -> str:
    """What an error says, on one line."""
    inner = error.__cause__ or error
    return f"{type(inner).__name__}: {' '.join(str(inner).split())}"

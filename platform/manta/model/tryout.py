"""A model is tried before workers are asked for: what it does decides, not what it is called.

Sizes that the model itself refuses are found without memory for its weights. What else must hold is
seen on a small model of the same kind. Its weights are drawn such that whatever can have an effect
has a large one: a later token that is seen, or one of another document, moves logits by far more
than rounding does.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from manta.config.errors import ConfigError
from manta.config.model_names import NamedModel
from manta.config.run import RunConfig
from manta.model import attention, model_class, parametrization, randomness
from manta.model.forward import options_of
from manta.model.hf_config import pretrained_config
from manta.model.own_net import OwnNet
from manta.model.quantized import frozen_bytes, quantized_numel
from manta.model.small import skeleton, small_of, trained_weights, weights
from manta.model.trainable import choose_trained, hold_frozen
from manta.model.trial_result import Tried
from manta.model.visibility import (
    ROW,
    evaluating,
    logits_of,
    made,
    moved,
    named,
    refuse_what_sees_too_much,
    sample_rows,
    with_drawn_weights,
)
from manta.model.vocabulary import refuse_frozen_rows
from manta.model.weight_groups import weight_groups

# Of a loss, between two ways of computing it.
SAME_LOSS = 1e-4
# Positions that a type may have beside those for tokens, or leave out.
AROUND = 8
# The factor of a loss beside the cross-entropy, by its usual names.
COEFFICIENT = re.compile(r"(aux\w*|balanc\w*|z)_loss_(coef\w*|alpha|weight)$|^aux_loss_coef$")


def try_out(config: RunConfig, resolved: PretrainedConfig, vocab_size: int) -> Tried:
    """Make the run's model without its weights, and try a small one of its kind on the CPU.

    Args:
        config: the run.
        resolved: the run's resolved model.
        vocab_size: size of the corpus's tokenizer, in tokens.

    Raises:
        ConfigError: naming what is wrong and what to do.
    """
    if config.model.parametrization is not None:
        parametrization.check(config.model.parametrization, resolved)
    skeletal = _skeleton(config, resolved)
    small = small_of(resolved, skeletal)
    choose_trained(skeletal, config.model, config.run.seed)
    weight_groups(skeletal, config.optimizer)
    if config.model.grow_vocabulary and config.model.pretrained:
        before = pretrained_config(NamedModel("model.pretrained", config.model.pretrained))
        refuse_frozen_rows(skeletal, before.get_text_config().vocab_size)
    exact = config.train.reproducible is not None  # then a pass's random numbers are its own
    dropping = () if exact else randomness.remarks_of_adapter(config.model.adapter)
    remarks = (*_by_name(resolved, exact=exact), *dropping)
    untried = _held(config, skeletal, Tried(weights(skeletal), trained_weights(skeletal), False))
    untried = replace(untried, remarks=remarks)
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
            f"{said(error)}; take other sizes, or another model.type"
        ) from None
    drawn = (randomness.remark(resolved),) if draws and not exact else ()
    return replace(untried, whole=True, remarks=(*drawn, *dropping))


def _held(config: RunConfig, skeletal: PreTrainedModel, tried: Tried) -> Tried:
    """The facts about a model, with what its frozen weights take if some are quantized."""
    if config.model.quantize is None:
        return tried
    hold_frozen(skeletal, config.model)
    return replace(tried, quantized=quantized_numel(skeletal), frozen_bytes=frozen_bytes(skeletal))


def try_own(config: RunConfig, resolved: OwnNet) -> Tried:
    """Make a model of the user's own, on the CPU.

    Raises:
        ConfigError: naming what is wrong.
    """
    if config.model.parametrization is not None:
        raise ConfigError(
            f"{parametrization.KEY}: what each weight does is not known in a model of your own: "
            "scale first values in its file, and rates by optimizer.groups"
        )
    with torch.random.fork_rng(devices=[]):
        net = resolved.build(config.run.seed)
    weight_groups(net, config.optimizer)
    remarks = () if config.train.reproducible else randomness.remarks_of_own(net)
    return Tried(weights(net), trained_weights(net), True, remarks)


def _by_name(resolved: PretrainedConfig, *, exact: bool) -> Iterator[str]:
    """What there is to say of a model that can't be tried small, by its settings' names alone."""
    if randomness.drawn_by(resolved) and not exact:
        yield randomness.remark(resolved)
    for key in _coefficients(resolved):
        yield f"{key} is not 0, but only the cross-entropy of the next token is trained on"


def _coefficients(resolved: PretrainedConfig) -> list[str]:
    """The settings that ask for a loss beside the cross-entropy, by their usual names."""
    settings = vars(resolved.get_text_config())
    return [key for key, value in settings.items() if COEFFICIENT.search(key) and value]


def _skeleton(config: RunConfig, resolved: PretrainedConfig) -> PreTrainedModel:
    try:
        return skeleton(resolved)
    except Exception as error:  # each model's class has checks, and errors, of its own
        why = said(error)
        guilty = [
            f"model.sizes.{key} = {value}"
            for key, value in vars(resolved).items()
            if isinstance(value, int) and value > 1 and re.search(rf"\b{value}\b", why)
            if "layer" not in key
        ]
        where = f"; change {' or '.join(guilty)}" if guilty else "; change them"
        if "padding_idx" in why.lower():
            where = (
                f": pad_token_id = {resolved.pad_token_id} is beyond its vocabulary of "
                f"{getattr(resolved, 'vocab_size', '?')}; set model.sizes.pad_token_id: null"
            )
        raise ConfigError(
            f"model.sizes: {resolved.model_type} can't be made of them: {why}{where}"
        ) from None


def _try(config: RunConfig, small: PretrainedConfig, vocab_size: int) -> bool:
    """Try a small model; returns whether it draws random numbers in training."""
    lm = made(small)
    vocabulary = min(vocab_size, getattr(small.get_text_config(), "vocab_size", vocab_size))
    rows = sample_rows(lm, vocabulary)
    own = _own_logits(config, lm, rows[:1])
    attention.choose(
        lm,
        document_mask=config.data.document_mask,
        seq_len=config.train.seq_len,
        device=torch.device("cpu"),
    )
    refuse_what_sees_too_much(config, lm, rows)
    with evaluating(lm):
        ours = logits_of(lm, rows[:1], None)
    if own is not None and moved(own, ours):
        raise ConfigError(
            f"{named(config)}: its logits differ from those of Transformers under Torch's "
            "attention; take another model.type"
        )
    _refuse_too_few_positions(config, lm, vocabulary)
    if model_class.has_head(small):
        headed = with_drawn_weights(model_class.from_config(small))
        with evaluating(headed):
            model_class.refuse_other_head(headed, rows[:1])
    return _draws(lm, rows[:1], ours)


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
    with evaluating(lm), torch.enable_grad(), _noting_tables(lm, tokens, tables):
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
    settings, keys = vars(lm.config.get_text_config()), _coefficients(lm.config)
    if not keys:
        raise ConfigError(
            f"{named(config)}: its own loss is more than the cross-entropy of the next token, all "
            "that is trained on here; take another model.type"
        )
    found = ", ".join(f"{key} = {settings[key]:g}" for key in keys)
    where = "in the config.json of a copy, "
    if config.model.type:
        where = f"model.sizes.{_text_section(config, lm)}"
    raise ConfigError(
        f"{named(config)}: its own loss has more to it than the cross-entropy of the next token "
        f"({found}): a balance of whole batches, which is no sum over samples and would depend on "
        f"the number of workers; set {' and '.join(f'{where}{key}: 0' for key in keys)} to train "
        "without it. Two ways to balance the router are exact: objective.balance, a loss of each "
        "sequence by itself, and, if the router has a bias for its choice, objective.bias_rate"
    )


def _text_section(config: RunConfig, lm: PreTrainedModel) -> str:
    """Where a language model has its settings that is a part of `model.type`; else ""."""
    kind, text = CONFIG_MAPPING[config.model.type], type(lm.config.get_text_config())
    parts = kind.sub_configs.items() if kind is not text else ()
    return next((f"{name}." for name, part in parts if part is text), "")


def _refuse_too_few_positions(config: RunConfig, lm: PreTrainedModel, vocabulary: int) -> None:
    """A whole sample is tried where the model's positions may end within it."""
    length = config.train.seq_len
    context = getattr(lm.config.get_text_config(), "max_position_embeddings", None) or 0
    tables = {m.num_embeddings for m in lm.modules() if isinstance(m, nn.Embedding)}
    learned = tables & set(range(context, context + AROUND))
    if context > length + AROUND and not learned:
        return
    try:
        with evaluating(lm):
            logits_of(lm, torch.randint(0, vocabulary, (1, length)), None)
    except (IndexError, RuntimeError) as error:
        raise ConfigError(
            f"train.seq_len = {length}: {named(config)} has no positions for so many tokens "
            f"({said(error)}); lower it, or raise model.sizes.max_position_embeddings"
        ) from None


def _refuse_untaught_tokens(
    config: RunConfig, loss: Tensor, tokens: Tensor, tables: list[nn.Embedding]
) -> None:
    """Each token that another one follows has a row in each embedding that learns from it."""
    used = torch.unique(tokens[0, :-1])
    weights = [table.weight for table in tables if table.weight.requires_grad]
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
            seen.append(logits_of(lm, tokens, None))
        if torch.equal(seen[-1], seen[-2]):
            return False
    return True


def said(error: Exception) -> str:
    """What an error says, on one line."""
    inner = error.__cause__ or error
    return f"{type(inner).__name__}: {' '.join(str(inner).split())}"

"""What becomes of a type of model: tried as `manta train` does, trained, and then looked at.

`model_oracle`, which looks at what was trained, knows nothing of the checks before training.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_oracle
import small_models
import torch
import transformers
from made_corpus import write_corpus
from models_page import Found
from plain_runs import engine_of
from small_models import merged, sizes_of
from transformers import AutoModelForCausalLM

from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.corpus.manifest import Vocabulary
from manta.elastic.checks.preflight import check, try_model
from manta.model import hf_config
from manta.model.small import skeleton, weights
from manta.model.trial_result import Tried
from manta.objective.causal import TokenLoss, labels_of
from manta.stream.plan import local_stream
from manta.train.engine import Engine

SEQ_LEN, STEPS = 16, 8
VOCABULARY = Vocabulary(small_models.VOCABULARY, eos_id=0)
MOST_WEIGHTS = 20_000_000
# A remedy as messages have it: taken at its word.
REMEDY = re.compile(r"model\.sizes\.([\w.]+): (\w+)")


def make_corpus(folder: Path) -> Path:
    """A corpus for all types."""
    write_corpus(folder / "corpus", {"train": [[SEQ_LEN * 2] * 20]}, vocab_size=VOCABULARY.size)
    return folder / "corpus"


def look_at(model_type: str, corpus: Path) -> Found:
    """What is found of a type."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    try:
        sizes = sizes_of(model_type)
        config = _config(model_type, sizes, corpus)
        resolved = hf_config.resolve(config, VOCABULARY)
        count = weights(skeleton(resolved))
    except Exception as error:  # most often for the sizes that we took
        return Found(model_type, untried=" ".join(str(error).split()) or type(error).__name__)
    if count > MOST_WEIGHTS:
        return Found(model_type, untried=f"{count / 1e6:,.0f}M weights with the usual sizes")
    try:
        return _found(model_type, sizes, corpus)
    except Exception as error:
        return Found(model_type, wrong=(f"{type(error).__name__}: {error}",))


def _found(model_type: str, sizes: dict[str, Any], corpus: Path) -> Found:
    settings: dict[str, Any] = {}
    tried = _tried(_config(model_type, sizes, corpus))
    wrong = _needless(tried, model_type, sizes, corpus)
    if isinstance(tried, str) and (settings := _remedy(tried)):
        tried = _tried(_config(model_type, merged(sizes, settings), corpus))
        wrong += _needless(tried, model_type, merged(sizes, settings), corpus)
    if isinstance(tried, str):
        return Found(model_type, refused=tried, wrong=wrong)
    sizes = merged(sizes, settings)
    if not tried.whole and (refused := _examined(_config(model_type, sizes, corpus))):
        return Found(model_type, refused=refused, wrong=wrong)
    engine, more = _train(_config(model_type, sizes, corpus))
    draws = model_oracle.draws(engine.trained.lm, torch.arange(SEQ_LEN)[None])
    if draws != bool(tried.remarks):
        more += (f"draws random numbers: {draws}, said: {tried.remarks}",)
    apart, leak = _documents(model_type, sizes, corpus)
    said = {key: json.dumps(value) for key, value in _dotted(settings)}
    return Found(model_type, said, apart, draws, wrong=(*wrong, *more, *leak))


def _config(
    model_type: str, sizes: dict[str, Any], corpus: Path, *, mask: bool = False
) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"name": "model", "storage": str(corpus.parent)},
            "corpus": str(corpus),
            "model": {"type": model_type, "sizes": sizes},
            "data": {"document_mask": mask},
            "train": {"seq_len": SEQ_LEN},
            "schedule": {"horizon": STEPS * 4 * SEQ_LEN, "lr": 3e-3, "batch": 4},
        }
    )


def _tried(config: RunConfig) -> Tried | str:
    """As `manta train` does it: what is known of a model, or why it is refused."""
    try:
        return try_model(check(config))
    except ConfigError as error:
        return str(error)


def _examined(config: RunConfig) -> str:
    """As a worker does it where no small model could be tried: why the model is refused."""
    try:
        Engine(config, hf_config.resolve(config, VOCABULARY), examine=True)
    except ConfigError as error:
        return str(error)
    return ""


def _remedy(refused: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dotted, value in REMEDY.findall(refused):
        *sections, key = dotted.split(".")
        within = found
        for section in sections:
            within = within.setdefault(section, {})
        within[key] = json.loads(value)
    return found


def _dotted(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{below}", one) for below, one in _dotted(value))
        else:
            yield key, value


def _needless(
    tried: Tried | str, model_type: str, sizes: dict[str, Any], corpus: Path
) -> tuple[str, ...]:
    """Whether a type is refused for later tokens that it doesn't see."""
    if not isinstance(tried, str) or "later tokens" not in tried:
        return ()
    lm = _fresh(_config(model_type, sizes, corpus))
    tokens = torch.randint(0, VOCABULARY.size, (1, SEQ_LEN))
    try:
        causal = model_oracle.is_causal(lm, tokens)
    except LookupError:
        causal = model_oracle.moves_only_after(lm, tokens)
    return (f"needlessly refused: {tried}",) if causal else ()


def _train(config: RunConfig) -> tuple[Engine, tuple[str, ...]]:
    """A model after some steps on the same samples, and what is wrong with it."""
    checked = check(config)
    resolved = hf_config.resolve(config, VOCABULARY)
    engine = engine_of(checked)
    batch = next(local_stream(checked.corpus, checked.schedule, cursor=0, rank=0, world_size=1))
    results = [engine.step(batch) for _ in range(STEPS)]
    losses = [float(result.loss) for result in results]
    wrong = [] if losses[-1] < losses[0] else [f"the loss does not fall: {losses}"]

    def loss_sum(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return TokenLoss.forward(engine.model, tokens, labels_of(tokens, None), None)

    wrong += model_oracle.wrong(engine.trained.lm, resolved, loss_sum, VOCABULARY.size)
    return engine, tuple(wrong)


def _documents(
    model_type: str, sizes: dict[str, Any], corpus: Path
) -> tuple[bool, tuple[str, ...]]:
    """Whether documents can be kept apart, and whether that is true."""
    config = _config(model_type, sizes, corpus, mask=True)
    tried = _tried(config)
    lm = engine_of(check(config)).trained.lm
    leaks = model_oracle.sees_other_documents(lm, VOCABULARY.size)
    apart = not isinstance(tried, str) and (tried.whole or not _examined(config))
    if apart == leaks:
        return apart, (f"sees other documents: {leaks}, but {tried}",)
    return apart, ()


def _fresh(config: RunConfig) -> torch.nn.Module:
    resolved = hf_config.resolve(config, VOCABULARY)
    lm = AutoModelForCausalLM.from_config(resolved, dtype=torch.float32)
    return lm.eval()

"""An exported model with weights in int8: written, loaded again, compared with what it was.

Only the weights of linear layers are rounded, with one scale a row, and nothing of the inputs;
embeddings and output layer stay as they are. The format is torchao's, which Transformers, vLLM and
others load. torchao is imported here alone, and only if asked for: the extra `int8`.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, TorchAoConfig

from manta.config.errors import RunError
from manta.config.extras import import_extra
from manta.config.run import RunConfig
from manta.corpus.manifest import CHAT, TOKENS, Manifest
from manta.model.forward import options_of
from manta.objective.causal import Causal
from manta.objective.sft import SupervisedFineTuning
from manta.stream.eval_sample import SEED, draw
from manta.stream.plan import open_corpus, reader_of

OPTION, EXTRA = "--quantize int8", "int8"
# Samples of the validation split that are compared, and the most tokens of each.
SAMPLES, LONGEST = 16, 512
# Folder in that of the model in which the rounded one is made.
ASIDE = ".int8"
# Loggers that warn when torchao is imported of what concerns its makers.
CHATTER = ("torchao", "torch.utils._pytree")


def check_torchao() -> Any:
    """torchao's module of formats.

    Raises:
        ConfigError: if it is not installed, with the command that installs it.
    """
    with _quiet():
        return import_extra("torchao.quantization", OPTION, EXTRA)


def check_loads(folder: Path) -> None:
    """Refuse a model in torchao's format where torchao is not installed.

    Raises:
        ConfigError: with the command that installs it.
    """
    written = getattr(AutoConfig.from_pretrained(folder), "quantization_config", None) or {}
    method = written.get("quant_method") if isinstance(written, dict) else written.quant_method
    if method == "torchao":
        with _quiet():
            import_extra("torchao.quantization", f"the model in {folder}", EXTRA)


def quantize_folder(folder: Path, lm: PreTrainedModel, config: RunConfig) -> str:
    """Round the weights of an exported model in its folder to int8.

    Args:
        folder: folder of the exported model.
        lm: the same model, float32, on the CPU.
        config: the run's config, whose corpus has validation samples.

    Returns:
        What it changed, in a line.

    Raises:
        RunError: if the model can't be rounded, or is another one when it is loaded again.
    """
    formats = check_torchao()
    before, rows = _size(folder), _validation_rows(config)
    form = TorchAoConfig(formats.Int8WeightOnlyConfig(version=2))
    with _quiet():
        rounded = _load(folder, quantization_config=form)
        rounded.save_pretrained(folder / ASIDE)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    for path in (folder / ASIDE).iterdir():
        path.replace(folder / path.name)
    shutil.rmtree(folder / ASIDE)
    with _quiet():
        loaded = _load(folder)
    if not torch.equal(_log_probs(rounded, rows[0]), _log_probs(loaded, rows[0])):
        raise RunError(
            f"the model in int8 is another one when it is loaded again: leave {OPTION} out"
        )
    divergence = _mean_divergence(lm, loaded, rows)
    if not math.isfinite(divergence):
        raise RunError(f"the model in int8 gives no finite numbers: leave {OPTION} out")
    after = _size(folder)
    return (
        f"weights in int8: {before / 1e6:.1f} → {after / 1e6:.1f} MB ({before / after:.2f} times "
        f"smaller); KL divergence from the model as it was {divergence:.2e} nats a token, "
        f"over {sum(row.shape[1] for row in rows):,} tokens of the validation split"
    )


def _load(folder: Path, **how: Any) -> PreTrainedModel:
    lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **how)
    return lm.eval()


def _size(folder: Path) -> int:
    """Bytes of the files of weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _validation_rows(config: RunConfig) -> list[Tensor]:
    """Some samples of the validation split, each of shape (1, tokens).

    Raises:
        RunError: if the corpus has no such samples of text.
    """
    manifest = Manifest.read(config.corpus)
    if manifest.sample not in (TOKENS, CHAT) or not manifest.tokens_of("validation"):
        raise RunError(
            f"{OPTION} compares models on text of the validation split, which {config.corpus} "
            "has not: leave it out"
        )
    seq_len = config.train.seq_len
    corpus = open_corpus(config.corpus, manifest, "validation", seq_len, SEED)
    sample = draw(corpus, manifest, SAMPLES * seq_len)
    chats = manifest.sample == CHAT
    objective = SupervisedFineTuning(document_mask=False) if chats else Causal()
    reader = reader_of(corpus)
    return [
        row[None, :LONGEST]
        for stratum in sample.strata
        if stratum.drawn
        for row in objective.inputs(
            reader.read(sample.ids(stratum)), torch.device("cpu")
        ).tokens.cpu()
    ]


@torch.no_grad()
def _log_probs(lm: PreTrainedModel, row: Tensor) -> Tensor:
    logits: Tensor = lm.eval()(input_ids=row, **options_of(lm)).logits
    return F.log_softmax(logits.double(), -1)


def _mean_divergence(lm: PreTrainedModel, other: PreTrainedModel, rows: list[Tensor]) -> float:
    """Mean Kullback–Leibler divergence of the next token's distribution, in nats."""
    total, count = 0.0, 0
    for row in rows:
        ours, theirs = _log_probs(lm, row), _log_probs(other, row)
        total += float((ours.exp() * (ours - theirs)).sum())
        count += row.shape[1]
    return total / count


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out warnings of torchao and of its import, which ask nothing of the user."""
    before = {name: logging.getLogger(name).level for name in CHATTER}
    for name in CHATTER:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

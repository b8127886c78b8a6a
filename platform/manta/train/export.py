"""A run's model as a Hugging Face folder, and text from it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from manta.config import RunConfig, load
from manta.config.errors import RunError
from manta.corpus.manifest import Manifest
from manta.corpus.remote import tokenizer_folder
from manta.storage.place import Place
from manta.train import model_config
from manta.train.loading import load_model
from manta.train.saved import name_of, newest, read_state, whole


def export(
    run_dir: Place, out: Path, step: int | None = None, beside: Mapping[str, str] | None = None
) -> Path:
    """Write weights (safetensors), config and tokenizer of a run to the new folder `out`.

    Args:
        run_dir: the run's directory, or its place in a store.
        out: must not exist; it appears whole.
        step: which checkpoint; the newest whole one if left out.
        beside: texts of more files for it, by name.

    Raises:
        RunError: if there is no such run or checkpoint, or `out` exists.
    """
    if out.exists():
        raise RunError(f"{out}: exists already; give a folder that doesn't, or remove it")
    config = load_run(run_dir)
    lm = load_weights(run_dir, config, step)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        lm.save_pretrained(aside)
        _tokenizer_of(config).save_pretrained(aside)
        for name, text in (beside or {}).items():
            (aside / name).write_text(text, encoding="utf-8")
        os.chmod(aside, 0o755)  # mkdtemp is for its owner alone
        os.rename(aside, out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return out


def generate(where: Place, prompt: str, *, tokens: int, temperature: float, seed: int) -> str:
    """`prompt` and its continuation by the model of a run, or of an exported folder.

    Args:
        where: the directory of a run, its place in a store, or a folder that `export` wrote.
        prompt: the beginning of the text.
        tokens: most tokens to add.
        temperature: of the sampling; 0 takes the likeliest token each time.
        seed: of the sampling.

    Raises:
        RunError: if there is no model.
    """
    if (where / "config.yaml").exists():
        config = load_run(where)
        lm, tokenizer = load_weights(where, config, None), _tokenizer_of(config)
    elif isinstance(where, Path) and (where / "config.json").exists():
        _quiet()
        lm = AutoModelForCausalLM.from_pretrained(where)
        tokenizer = AutoTokenizer.from_pretrained(where)
    else:
        raise RunError(f"{where}: neither the directory of a run nor an exported model")
    torch.manual_seed(seed)
    lm.eval()
    encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 0.95}
    made = lm.generate(
        input_ids=encoded.input_ids,
        attention_mask=encoded.attention_mask,
        max_new_tokens=tokens,
        pad_token_id=tokenizer.eos_token_id,
        **sampling,
    )
    text: str = tokenizer.decode(made[0], skip_special_tokens=True)
    return text


def load_run(run_dir: Place) -> RunConfig:
    """The config of the run in `run_dir`.

    Raises:
        RunError: if there is no run.
    """
    path = run_dir / "config.yaml"
    if not path.exists():
        raise RunError(f"{run_dir}: not the directory of a run (there is no config.yaml in it)")
    return load(path, RunConfig)


def load_weights(run_dir: Place, config: RunConfig, step: int | None) -> PreTrainedModel:
    """The run's model with the weights of a checkpoint, on the CPU.

    Raises:
        RunError: if there is no such checkpoint.
    """
    _quiet()
    folder = run_dir / "checkpoints"
    checkpoint = newest(folder) if step is None else folder / name_of(step)
    if not checkpoint.is_dir():
        there = ", ".join(str(read_state(path).step) for path in whole(folder))
        raise RunError(f"{checkpoint}: no such checkpoint; there are those of steps {there}")
    resolved = model_config.resolve(config, Manifest.read(config.corpus).vocabulary)
    lm = AutoModelForCausalLM.from_config(resolved, dtype=torch.float32)
    load_model(checkpoint, lm)
    return lm


def _tokenizer_of(config: RunConfig) -> Any:
    manifest = Manifest.read(config.corpus)
    return AutoTokenizer.from_pretrained(tokenizer_folder(config.corpus, manifest))


def _quiet() -> None:
    transformers_logging.disable_progress_bar()

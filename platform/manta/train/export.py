"""A run's model as a Hugging Face folder, and text from it."""

from __future__ import annotations

import copy
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from manta.config import RunConfig
from manta.config.credentials import without_credentials
from manta.config.errors import RunError
from manta.config.model_names import hub_name
from manta.config.objective import SCORES
from manta.config.own_code import is_own, own
from manta.corpus.manifest import Manifest
from manta.model import hf_config, model_class
from manta.model.adapter import merged, save_adapter
from manta.model.language_model import build
from manta.model.own_net import OwnNet
from manta.model.quantized import dequantize
from manta.record.identity import binding_of
from manta.record.model_origin import ModelOrigin
from manta.record.run_config import recorded_config
from manta.record.run_state import read_state_if_any
from manta.state.base_weights import fingerprint_of_base
from manta.state.checkpoint_files import name_of, newest, read_state, whole
from manta.state.loading import load_model
from manta.storage.atomic import as_umask_says
from manta.storage.place import Place
from manta.storage.probe import check_new_folder
from manta.storage.run_folder import CHECKPOINTS, CONFIG, LINEAGE
from manta.train.adapter_folder import AdapterFolder
from manta.train.export_check import compare, of_another_base
from manta.train.export_tokenizer import load_tokenizer, write_tokenizer

# As Transformers calls it.
WEIGHTS = "model.safetensors"
# The file that tells the folder of a model.
WHOLE = "config.json"


def export(
    run_dir: Place,
    out: Path,
    step: int | None = None,
    beside: Mapping[str, str] | None = None,
    *,
    merge: bool = False,
    average: bool = False,
    quantize: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write weights (safetensors), config and tokenizer of a run to the new folder `out`.

    Of a run with an adapter: the adapter as PEFT loads it, or the model with it, merged in float32.
    Of a model of the user's own: its weights, for `safetensors.torch.load_model`, and its file.

    Args:
        run_dir: the run's directory, or its place in a store.
        out: must not exist; it appears whole, once it was loaded and compared with the run's model.
        step: step of the checkpoint; by default the newest whole one.
        beside: texts of more files for it, by name.
        merge: whether a run's adapter is merged into the weights.
        average: whether the average of the weights is written in their place.
        quantize: whether weights are rounded to int8.
        tell: takes what the comparison found, a line.

    Raises:
        RunError: if there is no such run or checkpoint, `out` exists or can't be made, the model
            or its tokenizer are not the same when Transformers loads them, or an adapter alone is
            not all that was trained.
    """
    check_new_folder(out)
    config = recorded_config(run_dir)
    code = own(config, "model.type")
    _check_what_is_exported(run_dir, config, merge=merge)
    if quantize:
        _check_quantizable(run_dir, config, merge=merge)
    if average and config.optimizer.average is None:
        raise RunError(f"{run_dir}: it has no average of its weights, as optimizer.average is null")
    net, lm = None, None
    if code is None:
        lm = load_weights(run_dir, config, step, average=average)
    else:
        net = _own_weights(run_dir, OwnNet(code, config.model.sizes), step, average=average)
    aside = out.parent / f".{out.name}-{uuid.uuid4().hex[:8]}"
    aside.mkdir()
    try:
        if lm is not None:
            if config.model.quantize is not None:
                trained, lm = lm, _on_the_unrounded_base(lm, config)
                tell(
                    f"written for the base as it was, and trained on it in {config.model.quantize}:"
                    f" {of_another_base(trained, lm)}"
                )
            _write_model(aside, lm, config, merge=merge)
            tell(f"loaded again and compared: {compare(lm, aside)}")
            if quantize:
                from manta.train.quantized_export import quantize_folder

                tell(quantize_folder(aside, lm, config))
        elif net is not None and code is not None:
            save_model(net, str(aside / WEIGHTS))
            (aside / code.file).write_text(code.text, encoding="utf-8")
        texts = {LINEAGE: _origin(run_dir, config, step, merged=merge, average=average).text()}
        for name, text in {**texts, **(beside or {})}.items():
            (aside / name).write_text(text, encoding="utf-8")
        as_umask_says(aside)  # safetensors are written for their owner alone
        os.rename(aside, out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return out


def _origin(
    run_dir: Place, config: RunConfig, step: int | None, *, merged: bool, average: bool
) -> ModelOrigin:
    """What the model's folder says of where it comes from."""
    state, record = read_state(_checkpoint(run_dir, step)), read_state_if_any(run_dir)
    where = run_dir.absolute() if isinstance(run_dir, Path) else run_dir
    corpus = record.corpus_fingerprint if record else Manifest.read(config.corpus).fingerprint
    return ModelOrigin(
        run=run_dir.name,
        folder=without_credentials(str(where)),
        step=state.step,
        tokens=state.tokens,
        corpus_fingerprint=corpus,
        binding=binding_of(config, corpus),
        merged=merged,
        average=average,
    )


def _check_what_is_exported(run_dir: Place, config: RunConfig, *, merge: bool) -> None:
    if merge and config.model.adapter is None:
        raise RunError(f"{run_dir}: --merge is for a run with an adapter, which this has not")
    if config.model.adapter and config.objective.type in SCORES and not merge:
        raise RunError(
            f"{run_dir}: a head for scores was trained beside the adapter, which a folder of PEFT "
            "does not hold: export with --merge"
        )
    if config.model.adapter and config.model.train and not merge:
        raise RunError(
            f"{run_dir}: weights were trained beside the adapter (model.train: "
            f"{config.model.train}), which a folder of PEFT does not hold: export with --merge"
        )


def _check_quantizable(run_dir: Place, config: RunConfig, *, merge: bool) -> None:
    if is_own(config.model.type) or config.objective.type in SCORES:
        raise RunError(f"{run_dir}: --quantize is for models of Transformers that predict tokens")
    if config.model.adapter and not merge:
        raise RunError(f"{run_dir}: --quantize rounds a whole model: export with --merge")
    from manta.train.quantized_export import check_torchao

    check_torchao()


def _write_model(folder: Path, lm: PreTrainedModel, config: RunConfig, *, merge: bool) -> None:
    adapter = config.model.adapter
    if adapter is not None and not merge:
        save_adapter(lm, adapter, config.model.pretrained, folder)
        lm.generation_config.save_pretrained(folder)
    else:
        whole = lm if adapter is None else merged(copy.deepcopy(lm))
        whole.save_pretrained(folder)
    write_tokenizer(folder, config.corpus, Manifest.read(config.corpus))


def _on_the_unrounded_base(lm: PreTrainedModel, config: RunConfig) -> PreTrainedModel:
    """The weights that a model trained, beside those of its pretrained model as they were.

    Args:
        lm: the model of a run, whose frozen weights were quantized.
        config: the run's config.
    """
    model = config.model.model_copy(update={"quantize": None, "frozen_dtype": "fp32"})
    plain = config.model_copy(update={"model": model})
    resolved = hf_config.resolve(plain, Manifest.read(config.corpus).vocabulary)
    assert not isinstance(resolved, OwnNet)
    whole = build(plain, resolved)
    found = {name: one for name, one in lm.named_parameters() if one.requires_grad}
    whole.load_state_dict(found, strict=False)
    whole.generation_config = lm.generation_config
    return whole.eval()


def generate(where: Place, prompt: str, *, tokens: int, temperature: float, seed: int) -> str:
    """`prompt` and its continuation by the model of a run, or of an exported folder.

    Args:
        where: the directory of a run, its place in a store, or a folder that `export` wrote.
        prompt: the beginning of the text; before it stands what documents begin with. Where both
            are nothing, the text begins after the EOS of a document before it.
        tokens: most tokens to add.
        temperature: sampling temperature; 0 takes the most likely token each time.
        seed: seed of the sampling.

    Raises:
        RunError: if there is no model, or nothing to begin from.
    """
    lm, tokenizer = load_generator(where)
    torch.manual_seed(seed)
    tokens_before = torch.tensor([_beginning(lm, tokenizer, prompt)])
    made = lm.generate(
        input_ids=tokens_before,
        attention_mask=torch.ones_like(tokens_before),
        max_new_tokens=tokens,
        # Nothing is padded in a single text; without a token for it Transformers warns.
        pad_token_id=tokenizer.eos_token_id,
        **sampling_of(temperature),
    )
    text: str = tokenizer.decode(made[0], skip_special_tokens=True)
    return text


def load_generator(where: Place, step: int | None = None) -> tuple[Any, Any]:
    """Model, in evaluation mode, and tokenizer of a run or of a folder that `export` wrote.

    Args:
        where: the directory of a run, its place in a store, or a folder that `export` wrote.
        step: step of a run's checkpoint; by default the newest.

    Raises:
        RunError: if there is no model.
    """
    if (where / CONFIG).exists():
        config = recorded_config(where)
        if config.objective.type in SCORES:
            raise RunError(_no_generator(where))
        lm = load_weights(where, config, step)
        return lm.eval(), load_tokenizer(config.corpus, Manifest.read(config.corpus))
    if isinstance(where, Path) and (adapter := AdapterFolder.read(where)):
        _quiet()
        if adapter.scores:
            raise RunError(_no_generator(where))
        return adapter.language_model().eval(), adapter.tokenizer()
    if isinstance(where, Path) and (where / WHOLE).exists():
        _quiet()
        if model_class.names_head(AutoConfig.from_pretrained(where)):
            raise RunError(_no_generator(where))
        from manta.train.quantized_export import check_loads

        check_loads(where)
        lm = AutoModelForCausalLM.from_pretrained(where)
        return lm.eval(), AutoTokenizer.from_pretrained(where)
    raise RunError(f"{where}: neither the directory of a run nor an exported model")


def _no_generator(where: Place) -> str:
    return (
        f"{where}: its model scores texts and writes none: manta score has it score those of a file"
    )


def sampling_of(temperature: float) -> dict[str, Any]:
    """Transformers' settings of sampling at a temperature; 0 takes the most likely token."""
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature, "top_p": 0.95}
    return {"do_sample": False}


def _beginning(lm: PreTrainedModel, tokenizer: Any, prompt: str) -> list[int]:
    """The tokens that a text is generated from: those of the prompt, or one at least."""
    tokens: list[int] = tokenizer(prompt)["input_ids"]
    if tokens:
        return tokens
    for token in (lm.generation_config.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [token]
    raise RunError(
        "the prompt has no tokens, and the model knows neither a BOS nor an EOS to begin from: "
        "give the beginning of a text"
    )


def load_weights(
    run_dir: Place, config: RunConfig, step: int | None, *, average: bool = False
) -> PreTrainedModel:
    """The run's model with the weights of a checkpoint, or their average, on the CPU.

    Raises:
        RunError: if there is no such checkpoint.
    """
    _quiet()
    checkpoint = _checkpoint(run_dir, step)
    manifest = Manifest.read(config.corpus)
    if is_own(config.model.type):
        raise RunError(
            f"{run_dir}: its model is your own ({config.model.type}), which generates no text; "
            "`manta export` writes its weights"
        )
    resolved = hf_config.resolve(config, manifest.vocabulary)
    assert manifest.eos_id is not None
    if config.model.freezes:
        assert not isinstance(resolved, OwnNet)
        lm = build(config, resolved)
        load_model(checkpoint, lm, fingerprint_of_base(lm), average=average)
        dequantize(lm)
        lm = lm.float()  # what is frozen may be in bf16
    else:
        lm = model_class.from_config(resolved)
        load_model(checkpoint, lm, average=average)
    if model_class.has_head(resolved):
        return lm
    if config.model.pretrained is not None:
        _generate_as_before(lm, config.model.pretrained)
    _stop_at(lm.generation_config, manifest.turn_ends or [manifest.eos_id])
    return lm


def _own_weights(run_dir: Place, resolved: OwnNet, step: int | None, *, average: bool) -> nn.Module:
    """A model of the user's own with the weights of a checkpoint, on the CPU."""
    net = resolved.build(0)
    load_model(_checkpoint(run_dir, step), net, average=average)
    return net


def _checkpoint(run_dir: Place, step: int | None) -> Place:
    """The checkpoint of a step, or the newest one."""
    folder = run_dir / CHECKPOINTS
    checkpoint = newest(folder) if step is None else folder / name_of(step)
    if not checkpoint.is_dir():
        there = ", ".join(str(read_state(path).step) for path in whole(folder))
        raise RunError(f"{checkpoint}: no such checkpoint; there are those of steps {there}")
    return checkpoint


def _generate_as_before(lm: PreTrainedModel, pretrained: str) -> None:
    """Let a model generate by the settings of the pretrained one, where they can be saved."""
    try:
        name, revision = hub_name(pretrained)
        settings = GenerationConfig.from_pretrained(name, revision=revision)
        settings.validate(strict=True)
    except (OSError, ValueError):  # it has none, or contradictory ones, which can't be saved
        return
    lm.generation_config = settings


def _stop_at(settings: GenerationConfig, ends: list[int]) -> None:
    """Let a text end where the corpus's documents or answers end, beside the model's own ends."""
    own = settings.eos_token_id
    known = own if isinstance(own, list) else [] if own is None else [own]
    all_ends = list(dict.fromkeys([*known, *ends]))
    settings.eos_token_id = all_ends if len(all_ends) > 1 else all_ends[0]


def _quiet() -> None:
    transformers_logging.disable_progress_bar()

"""Models whose weights are in no checkpoint, before a run: which ones they are, and if they fit.

A run goes on right only beside the same frozen weights: those of the model that its objective
compares with, and those of its base, beside which others are trained. So the name on the Hub of the
former is resolved to a commit once, which is part of the config from then on, and of a folder the
record has a fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from manta.config.errors import ConfigError
from manta.config.model_names import NamedModel, frozen_model, hub_name
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest
from manta.corpus.remote import tokenizer_folder
from manta.model.fingerprint import CONFIG, fingerprint, weight_files
from manta.storage.atomic import replace_text
from manta.storage.cache import node_folder

FOLDER = "fingerprints"


def pinned(config: RunConfig) -> RunConfig:
    """The config with the commit in the name of a frozen model on the Hub.

    Raises:
        ConfigError: if the Hub's model can't be had.
    """
    model = frozen_model(config)
    if model is None or _folder_of(model) is not None:
        return config
    name, revision = hub_name(model.name)
    commit = _file_of(model).parent.name
    return config if commit == revision else model.renamed(config, f"{name}@{commit}")


def check_frozen(config: RunConfig, manifest: Manifest) -> str:
    """Check the frozen model of a run, if it has one; returns the fingerprint of it.

    Returns:
        "" without such a model; the commit of one on the Hub.

    Raises:
        ConfigError: if it can't be read, or has another vocabulary than corpus or trained model.
    """
    model = frozen_model(config)
    if model is None:
        return ""
    config_file = _file_of(model)
    vocabulary = _vocabulary(config_file, model)
    _check_vocabulary(model, vocabulary, config, manifest)
    _check_tokens(model, config, manifest)
    folder = _folder_of(model)
    if folder is None:
        return config_file.parent.name
    try:
        return _remembered(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{model.key} = {model.name!r}: its weights can't be read: {error}; give a folder that "
            "Transformers or `manta export` wrote"
        ) from None


def base_fingerprint(config: RunConfig) -> str:
    """The fingerprint of the model some of whose weights a run keeps frozen.

    Returns:
        "" if all weights are trained, or the model isn't in a folder that is seen from here:
        workers compare the weights themselves with those of a checkpoint.
    """
    if not config.model.freezes or config.model.pretrained is None:
        return ""
    folder = _folder_of(NamedModel("model.pretrained", config.model.pretrained))
    try:
        return "" if folder is None else _remembered(folder)
    except (OSError, ValueError, KeyError):
        return ""  # what can't be read is told when the model is tried


def frozen_vocabulary(config: RunConfig) -> int:
    """Entries of the vocabulary of a run's frozen model.

    Raises:
        ConfigError: if its config.json doesn't say.
    """
    model = frozen_model(config)
    assert model is not None
    size = _vocabulary(_file_of(model), model)
    if size is None:
        raise ConfigError(f"{model.key} = {model.name!r}: its config.json says no vocab_size")
    return size


def _check_vocabulary(
    model: NamedModel, vocabulary: int | None, config: RunConfig, manifest: Manifest
) -> None:
    trained = _trained_vocabulary(config, manifest)
    if vocabulary is None or trained is None or vocabulary == trained:
        return
    raise ConfigError(
        f"{model.key} = {model.name!r}: its vocabulary has {vocabulary} entries, but that of the "
        f"trained model has {trained}: they can't be compared token by token; take a model of the "
        "same vocabulary, and prepare the corpus with its tokenizer (tokenizer.path)"
    )


def _check_tokens(model: NamedModel, config: RunConfig, manifest: Manifest) -> None:
    """Refuse a model with a tokenizer that has other tokens under the corpus's ids.

    One that brings no tokenizer.json is taken at its word.
    """
    name = manifest.tokenizer_file
    if name is None or not manifest.tokenizer_sha256:
        return  # a corpus of tokens alone
    try:
        content = _file_of(model, name).read_bytes()
    except (OSError, ConfigError):
        return
    if hashlib.sha256(content).hexdigest() == manifest.tokenizer_sha256:
        return
    ours = (tokenizer_folder(config.corpus, manifest) / name).read_bytes()
    theirs, tokens = (_ids(each, model.name) for each in (content, ours))
    other = [token for token, index in tokens.items() if theirs.get(token) != index]
    if other:
        token = min(other, key=tokens.__getitem__)
        raise ConfigError(
            f"{model.key} = {model.name!r}: its tokenizer has {len(other)} other tokens than that "
            f"of {config.corpus}, such as {token!r}, which is {tokens[token]} there and "
            f"{theirs.get(token, 'nothing')} here: prepare the corpus with this model's tokenizer "
            "(tokenizer.path)"
        )


def _ids(tokenizer_json: bytes, shown: str) -> dict[str, int]:
    """Token → id."""
    from manta.corpus.canonical import parsed  # `tokenizers`, which most runs don't need here

    ids: dict[str, int] = parsed(tokenizer_json, shown).get_vocab(with_added_tokens=True)
    return ids


def _trained_vocabulary(config: RunConfig, manifest: Manifest) -> int | None:
    """Entries of the trained model's vocabulary, as far as names and sizes tell."""
    section = config.model
    if section.pretrained is not None:
        model = NamedModel("model.pretrained", section.pretrained)
        entries = _vocabulary(_file_of(model), model)
        if section.grow_vocabulary and entries is not None:
            return max(entries, manifest.vocab_size or 0)
        return entries
    if ":" in (section.type or ""):
        return manifest.vocab_size
    said = section.sizes.get("vocab_size", manifest.vocab_size)
    return said if isinstance(said, int) else None


def _vocabulary(path: Path, model: NamedModel) -> int | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{model.key} = {model.name!r}: {path} can't be read: {error}; give a folder that "
            "Transformers or `manta export` wrote, a name on the Hub, or a run"
        ) from None
    size = found.get("vocab_size", found.get("text_config", {}).get("vocab_size"))
    return size if isinstance(size, int) else None


def _file_of(model: NamedModel, name: str = CONFIG) -> Path:
    """A file of a model; one on the Hub lies in a folder that its commit names."""
    folder = _folder_of(model)
    if folder is not None:
        return folder / name
    from huggingface_hub import hf_hub_download  # 0.3 s, which a folder doesn't need

    repository, revision = hub_name(model.name)
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"{model.key} = {model.name!r}: neither a folder, nor a run that is here, nor a model "
            f"of Hugging Face's that can be had: {why}"
        ) from None


def _folder_of(model: NamedModel) -> Path | None:
    """The folder of a model; None if it is one on the Hub."""
    folder = Path(model.name)
    return folder.absolute() if folder.is_absolute() or folder.is_dir() else None


def _remembered(folder: Path) -> str:
    """The fingerprint of a folder, which this node remembers while its files stay as they are."""
    files = [folder / CONFIG, *weight_files(folder)]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    memory = node_folder() / FOLDER / key
    try:
        return memory.read_text()
    except OSError:
        found = fingerprint(folder)
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        replace_text(memory, found)
    except OSError:  # then it is computed again at the next start
        pass
    return found

"""A model's type and keys looked up in Transformers' source, without importing it.

To import Transformers takes seconds. A name that it doesn't know is to be told at once, before
Ray is started. Its layout is internal to Transformers 5.23; tests/train/test_source.py
guards it.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from manta.config.errors import ConfigError
from manta.config.own_code import is_own
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest

# A method's decorators, its head, and what is indented more than these.
METHODS = re.compile(r"^    (?:@|def |async def ).*(?:\n(?:     .*|    [)\]}].*)?)*\n?", re.M)


def check_names(config: RunConfig, manifest: Manifest) -> None:
    """Check what can be known of a run's model from names and sizes alone.

    What this can't find out, `model_config.resolve` looks at again with Transformers itself.

    Args:
        config: the run.
        manifest: manifest of the run's corpus.

    Raises:
        ConfigError: naming what is wrong and what to do.
    """
    section = config.model
    if is_own(section.type):
        return
    if manifest.vocab_size is None:
        raise ConfigError(
            f"model: a language model takes tokens, but the samples of {config.corpus} have the "
            f"format '{manifest.sample}': name a model of your own in model.type, such as "
            "./mine.py:Net"
        )
    if section.pretrained is not None:
        return
    model_type = section.type or ""
    types = causal_types()
    if types is not None:
        refuse_unknown_type(model_type, types)
    keys = keys_of(model_type)
    if keys is not None:
        refuse_unknown_keys(model_type, section.sizes, keys)
    refuse_too_small(config, manifest.vocab_size, section.sizes)


def refuse_unknown_type(model_type: str, known: Collection[str]) -> None:
    """Raise ConfigError unless the type is among the known ones."""
    if model_type not in known:
        close = difflib.get_close_matches(model_type, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ", such as llama, qwen3 or gpt2"
        raise ConfigError(
            f"model.type = {model_type!r}: not a causal language model of Transformers{hint}"
        )


def refuse_unknown_keys(model_type: str, keys: Collection[str], known: Collection[str]) -> None:
    """Raise ConfigError naming the first of the keys that the type doesn't have."""
    for name in keys:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"unknown key 'model.sizes.{name}' for {model_type}{hint}")


def refuse_too_small(config: RunConfig, vocab_size: int, sizes: dict[str, Any]) -> None:
    """Raise ConfigError if a model of these sizes has no room for the corpus or the samples.

    Args:
        config: the run.
        vocab_size: size of the corpus's tokenizer, in tokens.
        sizes: sizes of the model, by name; a missing one, or None, is not checked.
    """
    vocabulary, context = sizes.get("vocab_size"), sizes.get("max_position_embeddings")
    made = config.model.pretrained is None
    if isinstance(vocabulary, int) and vocabulary < vocab_size:
        larger = f"set model.sizes.vocab_size to at least {vocab_size}"
        if not made:
            larger = (
                "set model.grow_vocabulary: true, if the corpus adds tokens to this model's own"
            )
        raise ConfigError(
            f"model: its vocabulary has {vocabulary} entries, but the corpus was tokenized with "
            f"{vocab_size}: {larger}, or prepare the corpus with this model's tokenizer "
            "(tokenizer.path)"
        )
    if isinstance(context, int) and 0 < context < config.train.seq_len:  # -1: without a limit
        longer = ", or raise model.sizes.max_position_embeddings" if made else ""
        raise ConfigError(
            f"train.seq_len = {config.train.seq_len}: the model's context is {context}; lower "
            f"it{longer}"
        )


def causal_types() -> set[str] | None:
    """The types of causal language models; None if they can't be read."""
    table = _table("models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
    return None if table is None else set(table)


def keys_of(model_type: str) -> set[str] | None:
    """What a model's config may have, by its own names and by others; None if it can't be read."""
    mappings = "models/auto/auto_mappings.py"
    classes = _table(mappings, "CONFIG_MAPPING_NAMES") or {}
    if model_type not in classes:
        return None
    folders = _table(mappings, "SPECIAL_MODEL_TYPE_TO_MODULE_NAME") or {}
    folder = folders.get(model_type, model_type.replace("-", "_"))
    path = _library() / "models" / folder / f"configuration_{folder}.py"
    found = set(_keys_in(path, classes[model_type]))
    # Without what all models have, the base class was not found: this is not the layout.
    return found if "architectures" in found else None


def _keys_in(path: Path, name: str) -> Iterator[str]:
    """The fields of a class, of those that it is made from, and the other names of them."""
    made = next(_statements(path, rf"class {name}\b"), None)
    if not isinstance(made, ast.ClassDef):
        return
    for node in made.body:
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "attribute_map":
            yield from ast.literal_eval(node.value)
    for base in made.bases:
        yield from _keys_in(*_origin(path, ast.unparse(base)))


def _origin(path: Path, name: str) -> tuple[Path, str]:
    """The file of a name that a module uses, and what it is called there."""
    for node in _statements(path, r"from \."):
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                file = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                return file.with_suffix(".py"), alias.name
    return path, name


def _table(file: str, name: str) -> dict[str, Any] | None:
    """A mapping that a module writes out as `OrderedDict([(key, value), …])`."""
    for node in _statements(_library() / file, f"{name} = "):
        assert isinstance(node, ast.Assign)
        try:
            return dict(ast.literal_eval(node.value.args[0]))  # type: ignore[attr-defined]
        except (AttributeError, IndexError, TypeError, ValueError):
            return None
    return None


def _statements(path: Path, beginning: str) -> Iterator[ast.stmt]:
    """The statements of a module that begin so (a regular expression), without its methods.

    To parse the modules whole takes longer than all else that is done to tell a mistake.
    """
    for found in re.finditer(rf"^{beginning}.*(?:\n(?:[ )\]}}].*)?)*", _text(path), re.M):
        try:
            yield from ast.parse(METHODS.sub("", found[0])).body
        except SyntaxError:
            return


@lru_cache(maxsize=1)
def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeError):
        return ""


def _library() -> Path:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent

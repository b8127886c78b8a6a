"""Python files of the user's own, named in a run's config as ``./mine.py:Name``.

Their texts become part of the config (`code`). So they are sent to workers that don't see the file,
and kept in the run's folder, and a run can't continue with another text.
"""

from __future__ import annotations

import hashlib
import linecache
import re
import symtable
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from manta.config.errors import ConfigError
from manta.config.run import RunConfig

# The keys that can name a class or function in a file of the user's.
KEYS = ("model.type", "data.format", "objective.type")
# Such an import, after which the names in a file can't be known without running it.
STAR = re.compile(r"^\s*from\s+\S+\s+import\s+\*", re.MULTILINE)


@dataclass(frozen=True)
class OwnCode:
    """A class, function or object in a Python file of the user's; small to pickle.

    Attributes:
        key: the config key that names the class or function.
        file: name of the file.
        name: name of the class or function in the file.
        text: the file's text.
    """

    key: str
    file: str
    name: str
    text: str

    def load(self) -> Any:
        """The class, function or object.

        Raises:
            ConfigError: if the file fails, or has no such name.
        """
        module = _module(self.key, self.file, self.text)
        if not hasattr(module, self.name):
            known = ", ".join(name for name in vars(module) if not name.startswith("_"))
            raise ConfigError(
                f"{self.key} = '{self.file}:{self.name}': {self.file} has no '{self.name}'; it has "
                f"{known}"
            )
        return getattr(module, self.name)

    def made(self, **options: Any) -> Any:
        """The object, or what the class or function returns for these options.

        Raises:
            ConfigError: if the class or function fails.
        """
        found = self.load()
        if not isinstance(found, type | FunctionType):
            return found
        try:
            return found(**options)
        except Exception as error:  # whatever the user's code raises
            raise ConfigError(
                f"{self.key} = '{self.file}:{self.name}': can't be made: "
                f"{error_in(error, self.file)}"
            ) from error


def is_own(value: str | None) -> bool:
    """Whether a value of a config names a class or function in a file of the user's."""
    return value is not None and ".py:" in value


def own(config: RunConfig, key: str) -> OwnCode | None:
    """What a key names in a file of the user's; None if it names something of Manta's own.

    The config must be a result of `with_code`, which has the file's text.
    """
    section, _, field = key.partition(".")
    value = getattr(getattr(config, section), field)
    if not is_own(value):
        return None
    file, _, name = value.rpartition(":")
    return OwnCode(key, file, name, config.code[file])


def with_code(
    config: RunConfig,
    folder: Callable[[str], Path] = lambda key: Path(),
    where: Callable[[str], str] = lambda key: "config",
) -> RunConfig:
    """The config with the texts of the Python files that it names, and their names without folders.

    Args:
        config: a run's config.
        folder: called with a key; gives the folder that a relative path at the key starts from.
        where: called with a key; says where its value comes from, for messages.

    Raises:
        ConfigError: if a file can't be read, or two files have the same name.
    """
    code: dict[str, str] = {}
    for key in KEYS:
        section, _, field = key.partition(".")
        value = getattr(getattr(config, section), field)
        if not is_own(value):
            continue
        said = f"{where(key)}: {key} = '{value}'"
        file, text = read_own(value, said, folder(key), config.code)
        name = value.rpartition(":")[2]
        if code.setdefault(file, text) != text:
            raise ConfigError(f"{said}: another file is called {file} too; rename one of them")
        named = getattr(config, section).model_copy(update={field: f"{file}:{name}"})
        config = config.model_copy(update={section: named})
    return config if code == config.code else config.model_copy(update={"code": code})


def read_own(value: str, said: str, folder: Path, known: Mapping[str, str]) -> tuple[str, str]:
    """Name, without folders, and text of a file that a value names, checked to define the name.

    Args:
        value: such as ``./mine.py:Name``.
        said: begin of messages: the place of the value, and the value.
        folder: the folder that a relative path starts from.
        known: texts by name of a file, which need not be read.

    Raises:
        ConfigError: if it can't be read, or defines no such name.
    """
    path, _, name = value.rpartition(":")
    text = known[path] if path in known else _text(folder / path, said)
    file = Path(path).name
    _check_defines(text, name, file, said)
    return file, text


def _check_defines(text: str, name: str, file: str, said: str) -> None:
    """Raise ConfigError unless a file defines or imports a name, as far as its text tells.

    Reading a config doesn't run the user's code.
    """
    try:
        top = symtable.symtable(text, file, "exec")
    except SyntaxError as error:
        raise ConfigError(f"{said}: {file}:{error.lineno}: not valid Python: {error.msg}") from None
    bound = [s for s in top.get_symbols() if s.is_assigned() or s.is_imported()]
    if name in {symbol.get_name() for symbol in bound} or STAR.search(text):
        return
    own = [symbol.get_name() for symbol in bound if not symbol.is_imported()]
    raise ConfigError(
        f"{said}: {file} defines no '{name}' at its top level; it defines "
        f"{', '.join(own) or 'nothing'}"
    )


def _text(path: Path, said: str) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it isn't UTF-8 text"
        raise ConfigError(
            f"{said}: {path} can't be read: {why}; write the file's path relative to the config "
            "file, and a name in the file, such as ./mine.py:Name"
        ) from None


@cache
def _module(key: str, file: str, text: str) -> ModuleType:
    """The module made from a file's text, once a process."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    module = ModuleType(f"manta_own_{Path(file).stem}_{digest}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses look for the module of a class there
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    try:
        exec(compile(text, file, "exec"), vars(module))
    except Exception as error:  # whatever the user's code raises
        del sys.modules[module.__name__]
        raise ConfigError(f"{key}: {file} can't be run: {error_in(error, file)}") from error
    return module


def error_in(error: Exception, file: str) -> str:
    """An error's message, with the line of the user's file that it came from."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        line = frame.lineno if frame.filename == file else line
    at = f"{file}:{line}: " if line else ""
    return f"{at}{type(error).__name__}: {error}"

"""Arguments and options that several subcommands take, and the first line that they print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

P = ParamSpec("P")
# Exit code of a command that can't answer, which of wrong arguments is the same.
NO_ANSWER = 2

if TYPE_CHECKING:
    from manta.storage.place import Place

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The config file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides, such as train.seq_len=512."),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved config and stop.")
]
RunPlace = Annotated[str, typer.Argument(metavar="RUN", help="Folder or URL of a run.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@STEP]",
        help="A run, an exported model, or one of the registry, such as registry:chat@3.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster; by default a Ray is started for the command."),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="URL of the cluster's dashboard; by default the one that `ray job submit` would use.",
    ),
]


def answers(command: Callable[P, None]) -> Callable[P, None]:
    """For a command whose exit code is an answer, 0 or 1: an error, which is none, is 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from manta.config.errors import MantaError

        try:
            command(*args, **kwargs)
        except MantaError as error:
            error.exit_code = NO_ANSWER
            raise

    return run


def interrupted(what: str) -> typer.Exit:
    """The end of a command that was interrupted, once it is told what that means for its work."""
    print(f"interrupted; {what}", file=sys.stderr)
    return typer.Exit(130)


def say_checking(config: Path) -> None:
    """Print at once what a command does first that will start Ray or connect to it."""
    from manta.cluster.waiting import say

    say(f"checking {config} …")


def model_place(text: str) -> tuple[Place, int | None]:
    """The place and step of ``RUN``, ``RUN@STEP``, a folder, or ``registry:NAME[@TAG]``.

    Raises:
        MantaError: if there is no such model in the registry, or no step follows the ``@``.
    """
    from manta.elastic.checks.warm_start import run_at_step
    from manta.record.model_registry import registered_model
    from manta.storage.place import place_of

    if (folder := registered_model(text)) is not None:
        return folder, None
    place, step = run_at_step(text)
    return place_of(place), step


def evaluated_place(text: str) -> Place:
    """The place of a run, a model, an evaluation, or ``registry:NAME[@TAG]``.

    Raises:
        MantaError: if there is no such model in the registry.
    """
    from manta.record.model_registry import registered_model
    from manta.storage.place import place_of

    return registered_model(text) or place_of(text)


def weights_of(given: list[str], option: str) -> dict[str, float]:
    """Weights by name, as ``NAME=WEIGHT`` is given on the command line.

    Raises:
        ConfigError: naming what is no such pair, or if no weight is above 0.
    """
    from manta.config.errors import ConfigError

    found = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = -1.0
        if not name or not 0 <= found[name] < float("inf"):
            raise ConfigError(f"{option}: {text!r}: give NAME=WEIGHT, with a number from 0 on")
    if not any(found.values()):
        raise ConfigError(f"{option}: give a weight above 0 to a source")
    return found
